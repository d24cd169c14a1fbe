"""Ultralytics' format of segments: `data.yaml`, `images/SUBSET/`, and in `labels/SUBSET/` a text file for each picture.

A line is the number of a type and the corners of a polygon, as shares of the picture's width and height; every
connected component has one. Polygons know no holes: `lib.export.instances.polygon` joins them to the outline by a cut
of no width. Ultralytics' loader brings every polygon to 1000 points: of a mask with more corners it loses detail. In
data.yaml, `train` lists the train part and every generator: take out what shall not be learned from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lib.core.runtime import write_text
from lib.export.instances import instances_of, polygon
from lib.export.items import Item, copy_picture, masks_of, subsets_of, types_of

DECIMALS = 7  # of shares: a hundredth of the distance that polygons keep from their pixels' edges, at 20,000 px


def write(folder: Path, items: Sequence[Item]) -> list[Path]:
    """Write the items of one category; returns the path of each picture."""
    numbers = {name: number for number, name in enumerate(types_of(items))}
    paths = []
    for subset, members in subsets_of(items):
        for item in members:
            paths.append(copy_picture(item, folder / "images" / subset, item.name))
            lines = []
            for instance in instances_of(masks_of(item)):
                shares = polygon(instance) / item.size
                corners = " ".join(f"{share:.{DECIMALS}f}" for share in shares.ravel())
                lines.append(f"{numbers[instance.defect_type]} {corners}\n")
            label = folder / "labels" / subset / f"{item.name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(lines), encoding="utf-8", newline="\n")
    write_text(folder / "data.yaml", _description(items, list(numbers)))
    return paths


def _description(items: Sequence[Item], names: Sequence[str]) -> str:
    """The content of data.yaml; without `path`, the folders are sought beside the file itself."""
    places = {subset: f"images/{subset}" for subset, _ in subsets_of(items)}
    learned = [place for subset, place in places.items() if subset not in ("val", "test")]
    content: dict[str, Any] = {"train": learned} | {part: places[part] for part in ("val", "test") if part in places}
    return yaml.safe_dump(content | {"names": dict(enumerate(names))}, sort_keys=False, allow_unicode=True)
