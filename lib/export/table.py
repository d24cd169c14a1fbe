"""A plain CSV: `samples.csv` with a row for each picture and type of defect on it, `images/SUBSET/`, `masks/SUBSET/`.

A mask is a PNG of 0 and 255 and shows one type; good pictures have a row without one.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import cv2

from lib.core.images import png_bytes
from lib.core.runtime import write_text
from lib.export.items import Item, copy_picture, masks_of

# x0 to y1: the box around all of the mask, in px, x1 and y1 exclusive; area: pixels of the mask.
COLUMNS = (
    *("image", "mask", "category", "subset", "defect_type", "width", "height", "x0", "y0", "x1", "y1", "area"),
    *("generator", "placement", "seed", "model"),
)


def write(folder: Path, items: Sequence[Item]) -> list[Path]:
    """Write the items of one category; returns the path of each picture."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    paths = []
    for item in items:
        path = copy_picture(item, folder / "images" / item.subset, item.name)
        paths.append(path)
        row = {key: item.provenance.get(key, "") for key in ("generator", "placement", "seed", "model")}
        row |= {"image": path.relative_to(folder).as_posix(), "category": item.category, "subset": item.subset}
        row |= {"defect_type": item.defect_type, "width": item.size[0], "height": item.size[1]}
        masks = masks_of(item)
        if not masks:
            rows.writerow(row)
        for name, mask in masks:
            target = folder / "masks" / item.subset / f"{item.name}-{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(png_bytes(mask))
            x, y, width, height = cv2.boundingRect(mask.astype("uint8"))
            measures = {"x0": x, "y0": y, "x1": x + width, "y1": y + height, "area": int(mask.sum())}
            rows.writerow(row | measures | {"defect_type": name, "mask": target.relative_to(folder).as_posix()})
    write_text(folder / "samples.csv", text.getvalue())
    return paths
