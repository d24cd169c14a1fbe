"""Label Studio's JSON export: polygons, rectangles, ellipses and brush strokes of all pictures.

Cancelled annotations of a task are ignored; if some are ground truth, only these count. If they disagree on whether
there is a defect, the picture is left out; else the latest one is used. A picture is good if its annotation is empty,
or only a choice that means "good". Choices, texts and keypoints mark no area: a picture that has only these is left
out. Pictures are found by the last components of their names, with or without the eight digits that an upload adds.
"""

import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import UserError
from lib.core.images import MAX_PIXELS, SUFFIXES
from lib.dataset.album import AnnotatedPictures
from lib.dataset.annotations import Polygon, Rectangle, Shape, ellipse, turned_box
from lib.dataset.findings import Findings
from lib.dataset.mask_patches import RunLengths, encoded
from lib.dataset.pictures import Picture, is_good
from lib.dataset.reading import annotation_files, other_export, read_json, recognised

GOODS, DEFECTS = "pictures whose annotation is empty, and those in a folder `good`", "results in annotations"
RESULTS = ("annotations", "completions")  # today's name and that of old versions
DISPUTED = (
    "that one annotation calls good and another does not; mark one as ground truth in Label Studio, or cancel the "
    "other, and export anew"
)
UPLOADED = re.compile(r"^[0-9a-f]{8}-")


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as Label Studio's export, or None."""
    sign = recognised(base, ".json", read_json, _is_export)
    return f"{sign} is a list of tasks with data and annotations" if sign else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the JSON files name; adds problems to the findings."""
    collection = AnnotatedPictures(base, findings)
    names = _names_of_uploads(collection)
    for path in annotation_files(base, ".json"):
        with collection.file(path, "Label Studio's JSON"):
            content = read_json(path)
            if not _is_export(content):
                other = other_export(content) or "it is no list of tasks with data and annotations"
                findings.warnings.append(f"{path}: not read, since {other}")
                continue
            for number, task in enumerate(content):
                with collection.annotation(path, f"task {task.get('id', number)}"):
                    _read_task(path, task, collection, names)
    return collection.pictures()


def _is_export(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and "data" in first and any(key in first for key in RESULTS)


def _read_task(path: Path, task: dict[str, Any], collection: AnnotatedPictures, names: dict[str, list[str]]) -> None:
    annotations: list[dict[str, Any]] = next((task[key] for key in RESULTS if key in task), [])
    valid = [one for one in annotations if not one.get("was_cancelled")]
    if not valid:
        collection.skip("task(s) without an annotation")
        return
    judged = [one for one in valid if one.get("ground_truth")] or valid
    latest = max(judged, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
    results = latest["result"]
    sizes = ((int(one["original_width"]), int(one["original_height"])) for one in results if one.get("original_width"))
    size = next(sizes, None)
    if len(image_names := sorted({str(one["to_name"]) for one in results if _labels(one) and one.get("to_name")})) > 1:
        raise UserError(
            f"areas on several pictures of one task ({', '.join(image_names)}); export a task for each picture"
        )
    notes = collection.picture(_picture_name(task, path, collection, names), path, size=size)
    if notes and len({_finds_something(one) for one in judged}) > 1:
        notes.doubt = DISPUTED
    for number, one in enumerate(results if notes else []):
        with collection.annotation(path, f"result {one.get('id', number)} of task {task.get('id')}"):
            labels = _labels(one)
            shape = _shape(one) if labels else None
            if shape is None:
                collection.skip(one.get("type"), notes, labels or one.get("value", {}).get("choices", ()))
            else:
                collection.region(notes, labels[0], shape)  # type: ignore[arg-type, index]
                for _ in labels[1:]:  # type: ignore[index]
                    collection.skip("further label(s) of one area")


def _finds_something(annotation: dict[str, Any]) -> bool:
    """Whether an annotation holds more than words for good."""
    answers = [_labels(one) or one.get("value", {}).get("choices") for one in annotation["result"]]
    return any(not labels or not all(map(is_good, labels)) for labels in answers)


def _labels(one: dict[str, Any]) -> list[Any] | None:
    """The labels of a result; None where it has none, as choices, texts and relations of regions."""
    return next((value for key, value in one.get("value", {}).items() if key.endswith("labels")), None)


def _picture_name(task: dict[str, Any], path: Path, collection: AnnotatedPictures, names: dict[str, list[str]]) -> str:
    """The name of a task's picture, in the form in which there is such a picture; names: `_names_of_uploads`.

    Where a task holds no `image`, it is the first text that looks like a picture's name, or else the first text.
    """
    texts = {key: value for key, value in task["data"].items() if isinstance(value, str)}
    if not texts:
        raise UserError("it names no picture, or a list of them; export a task for each picture")
    likely = (text for text in texts.values() if text.lower().endswith(SUFFIXES))
    address = urlsplit(texts.get("image") or next(likely, next(iter(texts.values()))))
    name = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    short = UPLOADED.sub("", name.rpartition("/")[2])
    return collection.name_of((name, short, *names.get(_as_uploaded(short), [])[:1]), path)


def _names_of_uploads(collection: AnnotatedPictures) -> dict[str, list[str]]:
    """The pictures by the names that Label Studio would give them; of several with one name, none."""
    names: dict[str, list[str]] = defaultdict(list)
    for picture in collection.album.paths:
        names[_as_uploaded(picture.name)].append(picture.relative_to(collection.base).as_posix())
    return {name: pictures for name, pictures in names.items() if len(pictures) == 1}


def _as_uploaded(name: str) -> str:
    """The name of a file as Label Studio stores uploads: blanks become _, and of other signs only -, _ and . stay."""
    return re.sub(r"[^-\w.]", "", unicodedata.normalize("NFC", name.strip().replace(" ", "_"))).casefold()


def _shape(one: dict[str, Any]) -> Shape | None:
    """The area of a result, or None where it has none. Values are percents of the picture."""
    value, width, height = one["value"], int(one["original_width"]), int(one["original_height"])
    angle = float(value.get("rotation", 0))
    if "points" in value:
        return Polygon((tuple(n for x, y in value["points"] for n in (x * width / 100, y * height / 100)),))
    if "rle" in value:
        return _brushed(value["rle"], width, height)
    if "x" not in value:
        return None
    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    if "radiusX" in value:
        return ellipse(x, y, float(value["radiusX"]) * width / 100, float(value["radiusY"]) * height / 100, angle)
    if "width" in value and "height" in value:  # a keypoint has a width alone
        corners = x, y, x + float(value["width"]) * width / 100, y + float(value["height"]) * height / 100
        return turned_box(corners, angle, (x, y)) if angle else Rectangle(corners)
    return None


def _brushed(data: list[int], width: int, height: int) -> RunLengths:
    """A brush stroke: the opacity of the four channels that its run lengths hold."""
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(f"a brush stroke of {width} x {height} px; at most {MAX_PIXELS:,} are read")
    if not isinstance(data, list) or len(data) > 8 * width * height + 100:  # bytes(n) would be n zeros
        raise UserError(f"a brush stroke that is no list of bytes for {width} x {height} px; export it anew")
    try:
        values = unpacked(bytes(data), 4 * width * height)
    except (IndexError, ValueError) as error:
        raise UserError(f"a brush stroke that does not fill its {width} x {height} px") from error
    return encoded(values.reshape(height, width, 4)[..., 3] > 0)


def unpacked(data: bytes, expected: int) -> NDArray[np.uint8]:
    """The `expected` values of Label Studio's packed run lengths.

    A stream of bits: 32 for the number of values, 5 for the width of a value less 1, four times 4 for the widths of
    lengths less 1; then runs: 1 bit that says whether one value repeats, 2 for which of the four widths the length has,
    the length less 1, and the value, or as many values as the length says.
    """
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def take(width: int) -> int:
        nonlocal at
        at += width
        if at > len(bits):
            raise IndexError("the stream ends too early")
        return int(bits[at - width : at], 2)

    if take(32) != expected:
        raise ValueError("another number of values")
    value_bits = take(5) + 1
    length_bits = [take(4) + 1 for _ in range(4)]
    values = np.zeros(expected, np.uint8)
    filled = 0
    while filled < expected:
        repeats = take(1)
        end = filled + take(length_bits[take(2)]) + 1
        if end > expected:
            raise ValueError("too many values")
        if repeats:
            values[filled:end] = take(value_bits) & 255
        else:
            values[filled:end] = [take(value_bits) & 255 for _ in range(end - filled)]
        filled = end
    return values
