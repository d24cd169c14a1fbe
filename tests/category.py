"""A tiny category on the disk, as the stages before synthesis leave it, and params.yaml cut down to its size."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.geometry import Box, box_mask
from lib.core.images import write_png
from lib.core.params import Params
from lib.core.records import GOOD, DefectBox, Description, Placement, Sample, write_records
from lib.language import captions

CATEGORY = "slab"
# id, defect type, part, (width, height), box of the defect
PICTURES: list[tuple[str, str, str, tuple[int, int], Box | None]] = [
    ("good-0", GOOD, "train", (48, 48), None),
    ("good-1", GOOD, "train", (48, 40), None),
    ("good-2", GOOD, "train", (40, 56), None),
    ("scratch-0", "scratch", "train", (48, 48), (4, 20, 28, 26)),
    ("scratch-1", "scratch", "train", (48, 48), (30, 2, 36, 30)),
    ("dent-0", "dent", "train", (48, 48), (18, 18, 30, 30)),
    ("scratch-9", "scratch", "val", (48, 48), (8, 8, 20, 20)),
    ("dent-9", "dent", "test", (48, 48), (8, 8, 20, 20)),
]


def write_category() -> None:
    """Write the category below the working folder; pictures of val and test are not there: nobody may read them."""
    rng = np.random.default_rng(0)
    folder = Path("data/prepared") / CATEGORY
    samples, boxes, descriptions = [], [], []
    for name, defect_type, split, (width, height), box in PICTURES:
        image, mask = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
        pixels = rng.integers(90, 150, (height, width, 3), dtype=np.uint8)
        if box is not None:
            inside = box_mask(box, width, height)
            pixels[inside] = rng.integers(200, 250, (int(inside.sum()), 3))
            boxes.append(DefectBox(name, 0, defect_type, box, int(inside.sum())))
            descriptions.append(Description(name, 0, "in the center", captions(defect_type, CATEGORY, "in the center")))
        if split == "train":
            write_png(image, pixels)
            if box is not None:
                write_png(mask, inside)
        samples.append(
            Sample(
                id=name,
                category=CATEGORY,
                defect_type=defect_type,
                image=image.as_posix(),
                mask=None if box is None else mask.as_posix(),
                group=name,
                split=split,
                size=(width, height),
                sha256="",
            )
        )
    write_records(folder / "samples.jsonl", samples)
    write_records(Path(f"data/boxes/{CATEGORY}.jsonl"), boxes)
    write_records(Path(f"data/descriptions/{CATEGORY}.jsonl"), descriptions)


def placement(
    number: int, normal: str = "good-0", box: tuple[int, int, int, int] = (10, 12, 26, 22), **changes: Any
) -> Placement:
    """A scratch in the middle of a good picture."""
    values: dict[str, Any] = {
        "id": f"{CATEGORY}-{number:04d}",
        "category": CATEGORY,
        "defect_type": "scratch",
        "normal": normal,
        "box": box,
        "location": "in the center",
        "prompt": captions("scratch", CATEGORY, "in the center")[0],
        "seed": 100 + number,
        "like": "scratch-0",
        "component": 0,
    }
    return Placement(**values | changes)


def tiny_params(raw: dict[str, Any], base: Path | str = "none", **sections: dict[str, Any]) -> Params:
    """The committed values, with short runs on small windows; `sections` changes single keys of single sections."""
    values = copy.deepcopy(raw)
    small: dict[str, dict[str, Any]] = {
        "dataset": {"categories": [CATEGORY]},
        "base": {"model": str(base)},
        "window": {"min_side": 16},
        "finetune": {"steps": 3, "batch_size": 2, "warmup_steps": 0, "learning_rate": 0.02},
        "mvp_diff": {"rank": 2, "variants": 2},
        "defect_gen": {
            "side": 32,
            "wide_width": 4,
            "wide_levels": 2,
            "narrow_width": 4,
            "narrow_levels": 1,
            "train_steps": 3,
            "train_batch": 2,
            "variants": 4,
            "tries": 2,
            "min_component": 4,
        },
        "dmgr": {
            "side": 32,
            "patch": 16,
            "global_width": 4,
            "global_levels": 2,
            "local_width": 4,
            "local_levels": 2,
            "global_steps": 3,
            "local_steps": 3,
            "train_batch": 2,
            "good_windows": 2,
            "variants": 2,
            "levels": 10,
            "layers": 2,
            "radius": 5,
        },
        "synth": {"steps": 2, "batch_size": 2},
    }
    for changes in (small, sections):
        for section, keys in changes.items():
            values[section].update(keys)
    return Params.model_validate(values)
