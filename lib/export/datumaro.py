"""Datumaro's own format: `annotations/SUBSET.json` beside `images/SUBSET/`.

Every connected component is a mask in compressed run lengths and a box, which a group number joins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.core.runtime import write_json
from lib.export.instances import instances_of, run_lengths
from lib.export.items import Item, copy_picture, masks_of, subsets_of, types_of

VERSION = "1.0"
IMAGE = 2  # Datumaro's number of this type of media


def write(folder: Path, items: Sequence[Item]) -> list[Path]:
    """Write the items of one category; returns the path of each picture."""
    numbers = {name: number for number, name in enumerate(types_of(items))}
    labels = [{"name": name, "parent": "", "attributes": []} for name in numbers]
    paths = []
    for subset, members in subsets_of(items):
        entries = []
        for item in members:
            path = copy_picture(item, folder / "images" / subset, item.name)
            paths.append(path)
            entries.append(
                {
                    "id": item.name,
                    "annotations": _annotations(item, numbers),
                    "attr": {},
                    "image": {"path": path.name, "size": list(item.size[::-1])},
                }
            )
        content = {
            "dm_format_version": VERSION,
            "media_type": IMAGE,
            "infos": {},
            "categories": {"label": {"labels": labels, "attributes": []}},
            "items": entries,
        }
        write_json(folder / "annotations" / f"{subset}.json", content)
    return paths


def _annotations(item: Item, numbers: dict[str, int]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for group, instance in enumerate(instances_of(masks_of(item)), start=1):
        shared = {"attributes": {}, "group": group, "label_id": numbers[instance.defect_type], "z_order": 0}
        x0, y0, x1, y1 = instance.box
        mask = {"type": "mask", "rle": run_lengths(instance, item.size)}
        box = {"type": "bbox", "bbox": [x0, y0, x1 - x0, y1 - y0]}
        annotations += [{"id": 2 * group - 2, **mask, **shared}, {"id": 2 * group - 1, **box, **shared}]
    return annotations
