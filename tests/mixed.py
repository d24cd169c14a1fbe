"""A real picture with defects of two types whose boxes overlap: bright scratches around a dark dent."""

from pathlib import Path

import numpy as np

from lib.core.geometry import box_mask
from lib.core.images import write_png
from lib.core.records import MIXED, Sample, TypeMap
from lib.core.runtime import write_bytes

WIDTH, HEIGHT = 96, 64
SCRATCH = box_mask((20, 10, 70, 13), WIDTH, HEIGHT) | box_mask((20, 10, 23, 50), WIDTH, HEIGHT)  # an L
DENT = box_mask((40, 25, 52, 37), WIDTH, HEIGHT)  # within the box of the scratch, beside its pixels


def mixed_sample(folder: Path, name: str = "mixed-0", split: str = "train") -> Sample:
    """The picture's record, its files written below `folder`."""
    import cv2

    image = np.random.default_rng(0).integers(110, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[SCRATCH], image[DENT] = 220, 30
    labels = np.where(SCRATCH, 2, np.where(DENT, 1, 0)).astype(np.uint8)
    paths = {kind: folder / kind / f"{name}.png" for kind in ("images", "masks", "types")}
    sha256, mask_sha256 = write_png(paths["images"], image), write_png(paths["masks"], labels > 0)
    write_bytes(paths["types"], cv2.imencode(".png", labels)[1].tobytes())
    return Sample(
        id=name,
        category="slab",
        defect_type=MIXED,
        image=paths["images"].as_posix(),
        mask=paths["masks"].as_posix(),
        group=name,
        split=split,
        size=(WIDTH, HEIGHT),
        sha256=sha256,
        mask_sha256=mask_sha256,
        type_map=TypeMap(paths["types"].as_posix(), f"digest of {name}", ("dent", "scratch")),
    )
