"""The layout of MVTec AD, as anomalib's `MVTecAD` and `Folder` read it.

    train/good/NNN-NAME.png            good pictures of the train part
    test/good/NNN-NAME.png             good pictures of all other parts
    test/TYPE/NNN-NAME.png             every picture with a defect, since this layout knows none for training
    ground_truth/TYPE/NNN-NAME_mask.png

Pictures with defects of several types have the type `mixed`, whose mask holds all of them. Readers pair pictures and
masks by their order: numbers of equal length in front keep both orders equal, whatever the names.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.core.images import png_bytes
from lib.core.records import GOOD
from lib.export.items import Item, copy_picture, masks_of

TRAIN = "train"


def write(folder: Path, items: Sequence[Item]) -> list[Path]:
    """Write the items of one category; returns the path of each picture."""
    counts: dict[Path, int] = {}
    digits = max(3, len(str(len(items))))
    paths = []
    for item in items:
        kind = "train" if item.subset == TRAIN and item.mask is None else "test"
        label = GOOD if item.mask is None else item.defect_type
        place = folder / kind / label
        counts[place] = counts.get(place, -1) + 1
        name = f"{counts[place]:0{digits}d}-{item.name}"
        paths.append(copy_picture(item, place, name, png=True))  # anomalib looks for nothing but PNG
        if masks := masks_of(item):
            target = folder / "ground_truth" / label / f"{name}_mask.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(png_bytes(np.logical_or.reduce([mask for _, mask in masks])))
    return paths
