"""COCO's format of instances: `annotations/instances_SUBSET.json` beside `images/SUBSET/`, in which files are named.

Every connected component is an annotation with its box and its mask in compressed run lengths, which keep holes and
single pixels; `iscrowd` is 0, although older files have run lengths for crowds alone. Good pictures have none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.core.runtime import write_json
from lib.export.instances import instances_of, run_lengths
from lib.export.items import Item, copy_picture, masks_of, subsets_of, types_of


def write(folder: Path, items: Sequence[Item]) -> list[Path]:
    """Write the items of one category; returns the path of each picture."""
    numbers = {name: number for number, name in enumerate(types_of(items), start=1)}
    categories = [{"id": number, "name": name, "supercategory": "defect"} for name, number in numbers.items()]
    paths = []
    for subset, members in subsets_of(items):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, item in enumerate(members, start=1):
            path = copy_picture(item, folder / "images" / subset, item.name)
            paths.append(path)
            width, height = item.size
            images.append({"id": number, "file_name": path.name, "width": width, "height": height})
            for instance in instances_of(masks_of(item)):
                x0, y0, x1, y1 = instance.box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": numbers[instance.defect_type],
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": instance.area,
                        "iscrowd": 0,
                        "segmentation": run_lengths(instance, item.size),
                    }
                )
        content = {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}
        write_json(folder / "annotations" / f"instances_{subset}.json", content)
    return paths
