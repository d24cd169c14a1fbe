"""COCO: JSON files with `images`, `annotations` and `categories`; polygons, run lengths, or boxes alone.

The name of the file (`instances_train2017.json`) or of a folder gives the part. A picture without annotations is good.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from pycocotools import mask as runs

from lib.core.errors import UserError, shortlist
from lib.dataset.album import AnnotatedPictures, Notes
from lib.dataset.annotations import Polygon, Rectangle, Shape
from lib.dataset.findings import Findings
from lib.dataset.mask_patches import RunLengths
from lib.dataset.pictures import Picture, part_of, part_of_words
from lib.dataset.reading import annotation_files, read_json, recognised

GOODS, DEFECTS = "pictures without annotations, and those in a folder `good`", "annotations"
KEYS = ("images", "annotations", "categories")


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as COCO, or None."""
    sign = recognised(base, ".json", read_json, _is_coco)
    return f"{sign} holds {', '.join(KEYS)}" if sign else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the JSON files name; adds problems to the findings."""
    collection = AnnotatedPictures(base, findings)
    for path in annotation_files(base, ".json"):
        with collection.file(path, "COCO"):
            content = read_json(path)
            if _is_coco(content):
                _read_file(path, content, collection)
            else:
                findings.warnings.append(f"{path}: not read, since it lacks {', '.join(KEYS)}")
    return collection.pictures()


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in KEYS)


def _read_file(path: Path, content: dict[str, Any], collection: AnnotatedPictures) -> None:
    part = part_of_words(path.stem) or part_of(path.relative_to(collection.base))
    labels: dict[Any, Any] = {}
    notes: dict[Any, Notes | None] = {}
    often: dict[str, Counter[Any]] = {"images": Counter(), "categories": Counter()}
    for number, one in enumerate(content["categories"]):
        with collection.annotation(path, f"categories[{number}]"):
            often["categories"][one["id"]] += 1
            labels[one["id"]] = one["name"]
    for number, image in enumerate(content["images"]):
        with collection.annotation(path, f"images[{number}]"):
            often["images"][image["id"]] += 1
            notes[image["id"]] = None
            size = (int(image["width"]), int(image["height"])) if image.get("width") and image.get("height") else None
            notes[image["id"]] = collection.picture(str(image["file_name"]), path, part, size=size)
    twice = {key: [str(number) for number, count in ids.items() if count > 1] for key, ids in often.items()}
    if repetitions := [f"{key} of the same id, {shortlist(ids)}" for key, ids in twice.items() if ids]:
        raise UserError(f"{path}: {', '.join(repetitions)}, so that annotations may belong to either; number them anew")
    for number, one in enumerate(content["annotations"]):
        with collection.annotation(path, one.get("id", number) if isinstance(one, dict) else number):
            for key, there in (("image_id", notes), ("category_id", labels)):
                if one[key] not in there:
                    raise UserError(f"its {key} is not in the file")
            if (picture := notes[one["image_id"]]) is not None:
                collection.region(picture, labels[one["category_id"]], _shape(one))


def _shape(annotation: dict[str, Any]) -> Shape:
    """The most exact of what an annotation holds."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        height, width = map(int, segmentation["size"])
        counts = segmentation["counts"]
        if isinstance(counts, list):
            if any(count < 0 or not isinstance(count, int) for count in counts) or sum(counts) != width * height:
                raise UserError(f"run lengths that do not fill {width} x {height} px")
            counts = runs.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"]
        return RunLengths(counts if isinstance(counts, bytes) else str(counts).encode("ascii"), (width, height))
    if segmentation:
        rings = segmentation if isinstance(segmentation[0], list) else [segmentation]  # some tools write one ring flat
        return Polygon(tuple(tuple(map(float, ring)) for ring in rings))
    x, y, wide, high = map(float, annotation["bbox"])
    return Rectangle((x, y, x + wide, y + high))
