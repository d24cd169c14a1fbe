"""The generators: one method, one file; the name in params.yaml is the file's name.

A method's module offers

- `Settings`: a `Section` with the types of its own section in params.yaml;
- `SHARED`: names of the other settings that a sample depends on, such as `synth.steps`; they are stored in its record;
- `finetune(params, settings, real, key, out, curves)`: learns from the real defects and writes the model into the
  folder `out`, with a `model.json` that names base, revision and weights; `key` identifies its unfinished work,
  `curves` is the folder for its loss curve. A method without training has no such function;
- `synthesize(params, settings, real, model, batches)`: yields for each batch of placements a list with one answer per
  placement, a `Made` or a `Failed`. A sample depends on its own seed only, not on the batch, the order or the number of
  processes.

Most methods paint into the good picture that the placement names: the answer has that picture's size, and outside the
placement's box nothing changes, bit for bit. If a person drew a `shape` into the box, methods that paint into shapes
stay inside it. A method that also generates the background sets `own_background`; it then returns the mask, or
`normal`: the same picture without the defect, from which the mask is measured.

`lib/synthesis.py` runs them all.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lib.core.defects import whole_defects
from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask
from lib.core.params import methods
from lib.core.records import DefectBox, Description, Sample, read_records, read_train


@dataclass(frozen=True)
class RealData:
    """What a generator may see of a category: its train part, no val or test pictures."""

    category: str
    samples: dict[str, Sample]
    boxes: tuple[DefectBox, ...]
    descriptions: dict[tuple[str, int], Description]  # by sample id and component


@dataclass(frozen=True)
class Made:
    """One synthesized picture.

    image: (H, W, 3) uint8. mask: (H, W) bool if the generator knows what it painted; None: it is measured later.
    normal: (H, W, 3) uint8, the picture without the defect, if the generator made that, too. own_background: the
    background is not the placement's good picture. notes: the generator's own values, serialisable as JSON.
    """

    image: RGB
    mask: Mask | None = None
    normal: RGB | None = None
    own_background: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A placement that got no picture, and why."""

    reason: str


Answer = Made | Failed

WINDOW = ("window.context", "window.min_side")  # names for `SHARED`, for methods that use the window around a box

NON_FINITE = "non-finite output"  # reason for `Failed`: the sample holds NaN or infinity


def find(name: str) -> ModuleType:
    """Import the module of a generator. Raises UserError, which lists the known names, for an unknown one."""
    if name not in methods("generators"):
        raise UserError(f"generators: {name!r} is unknown, known are {', '.join(methods('generators'))}")
    return importlib.import_module(f"lib.generators.{name}")


def read_real(category: str) -> RealData:
    """Read the train part of a prepared category, with its boxes, but for fragments, and its descriptions."""
    samples = read_train(category)
    boxes = read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
    descriptions = read_records(Path(f"data/descriptions/{category}.jsonl"), Description)
    return RealData(
        category,
        samples,
        tuple(whole_defects([box for box in boxes if box.sample in samples])),
        {(item.sample, item.component): item for item in descriptions if item.sample in samples},
    )
