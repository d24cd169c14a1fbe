"""The generators, by the names that stand in params.yaml. A module is imported only when it is asked for.

Each offers `finetune(params, real, key, out, curves)` and `synthesize(params, real, model, batches)`; equal jobs,
equal signatures, and this dict is the whole plug-in system.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.geometry import RGB, Mask
from lib.core.records import DefectBox, Description, Sample, read_records, read_train

GENERATORS = {
    "perlin": "lib.generators.perlin",
    "mvp_diff": "lib.generators.mvp_diff",
}


@dataclass(frozen=True)
class RealData:
    """What a generator may know of a category: its train part. Val and test pictures are not in it."""

    category: str
    samples: dict[str, Sample]
    boxes: tuple[DefectBox, ...]
    descriptions: dict[tuple[str, int], Description]  # by sample id and component


@dataclass(frozen=True)
class Made:
    """One synthesized picture of the good picture's size; `mask` where the generator knows what it painted."""

    image: RGB
    mask: Mask | None = None


def find(name: str) -> Any:
    """The module of a generator. Raises ValueError, with the known names, for any other."""
    if name not in GENERATORS:
        raise ValueError(f"generators: {name} is unknown, known are {', '.join(GENERATORS)}")
    return importlib.import_module(GENERATORS[name])


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
