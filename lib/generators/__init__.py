"""The generators: one method, one file; the name in params.yaml is the file's name.

A method's module offers

- `Settings`: a `Section` with the types of its own section in params.yaml;
- `SHARED`: names of the other settings that a sample depends on, such as `synth.steps`: they go into its record;
- `finetune(params, settings, real, key, out, curves)`: learns from the real defects and writes the model into the
  folder `out`, with a `model.json` that names base, revision and weights; `key` names its unfinished work, `curves` is
  the folder for its loss. A procedure, which learns nothing, has no such function;
- `synthesize(params, settings, real, model, batches)`: yields for each batch of placements the list of its answers, a
  `Made` or a `Failed` for every placement. A sample depends on its own seed alone, whatever the batch, the order and
  the number of processes.

Most methods paint into the good picture that the placement names: the answer has that picture's size, and outside of
the placement's box nothing changes, bit for bit; where a person drew a `shape` into the box, a method that paints
into shapes keeps to that. One that paints the background as well says so (`own_background`);
it then gives the mask, or `normal`, the same picture without the defect, from which the mask is measured.

`lib/synthesis.py` drives them all.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask
from lib.core.params import methods
from lib.core.records import DefectBox, Description, Sample, read_records, read_train


@dataclass(frozen=True)
class RealData:
    """What a generator may know of a category: its train part. Val and test pictures are not in it."""

    category: str
    samples: dict[str, Sample]
    boxes: tuple[DefectBox, ...]
    descriptions: dict[tuple[str, int], Description]  # by sample id and component


@dataclass(frozen=True)
class Made:
    """One synthesized picture.

    image: (H, W, 3) uint8. mask: (H, W) bool, where the generator knows what it painted; None has it measured.
    normal: (H, W, 3) uint8, the picture without the defect, where the generator made that, too. own_background: the
    picture does not show the placement's good picture. notes: the generator's own numbers, fit for JSON.
    """

    image: RGB
    mask: Mask | None = None
    normal: RGB | None = None
    own_background: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A placement for which there is no picture, and why."""

    reason: str


Answer = Made | Failed

WINDOW = ("window.context", "window.min_side")  # names for `SHARED`: of the window around a box

NON_FINITE = "non-finite output"  # the reason of a diffusion method whose sample holds NaN or infinity


def find(name: str) -> ModuleType:
    """The module of a generator, imported when it is asked for. Raises UserError with the known names for any other."""
    if name not in methods("generators"):
        raise UserError(f"generators: {name!r} is unknown, known are {', '.join(methods('generators'))}")
    return importlib.import_module(f"lib.generators.{name}")


def read_real(category: str) -> RealData:
    """Read the train part of a prepared category, with its boxes and descriptions."""
    samples = read_train(category)
    boxes = read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
    descriptions = read_records(Path(f"data/descriptions/{category}.jsonl"), Description)
    return RealData(
        category,
        samples,
        tuple(box for box in boxes if box.sample in samples),
        {(item.sample, item.component): item for item in descriptions if item.sample in samples},
    )
