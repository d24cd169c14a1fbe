"""labelme: a JSON file for each picture, beside it or elsewhere; polygons, rectangles, circles and masks.

A picture whose file has no shapes is good, unless it has a flag with another meaning; the name of a folder gives the
part. Lines and points mark no area: a picture that has only these is left out.
"""

import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from lib.core.errors import UserError
from lib.core.images import MAX_PIXELS
from lib.dataset.album import AnnotatedPictures
from lib.dataset.annotations import Polygon, Rectangle, Shape, ellipse
from lib.dataset.findings import Findings
from lib.dataset.mask_patches import RunLengths, encoded
from lib.dataset.pictures import Picture
from lib.dataset.reading import annotation_files, read_json, recognised

GOODS, DEFECTS = "pictures whose file holds no shape, and those in a folder `good`", "shapes"

LEAST = {"polygon": 3, "rotation": 3, "circle": 2, "rectangle": 2, "mask": 2}  # points


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as labelme's, or None."""
    sign = recognised(base, ".json", read_json, _is_labelme)
    return f"{sign} holds shapes and an imagePath" if sign else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the JSON files are about; adds problems to the findings."""
    collection = AnnotatedPictures(base, findings)
    for path in annotation_files(base, ".json"):
        with collection.file(path, "labelme"):
            content = read_json(path)
            if not _is_labelme(content):
                findings.warnings.append(f"{path}: not read, since it lacks shapes and imagePath")
                continue
            width, height = int(content.get("imageWidth") or 0), int(content.get("imageHeight") or 0)
            size = (width, height) if width * height else None
            named = str(content["imagePath"])
            beside = named.replace("\\", "/").rpartition("/")[2]  # where files were moved
            notes = collection.picture(collection.name_of((named, beside), path), path, size=size)
            for number, one in enumerate(content["shapes"] if notes else []):
                with collection.annotation(path, f"shapes[{number}]"):
                    kind = one.get("shape_type") or "polygon"
                    if (shape := _shape(kind, one, size)) is None:
                        collection.skip(kind, notes, [one["label"]])
                    else:
                        collection.region(notes, one["label"], shape)  # type: ignore[arg-type]
            flags = [name for name, is_set in (content.get("flags") or {}).items() if is_set] if notes else []
            if flags:
                collection.skip("flag(s) of a picture", notes, flags)
    return collection.pictures()


def _is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def _shape(kind: str, one: dict[str, Any], size: tuple[int, int] | None) -> Shape | None:
    """The area of a shape, or None where it has none. X-AnyLabeling writes four corners of a rectangle, also of a
    rotated one (`rotation`), where labelme writes two."""
    try:
        points = [(float(x), float(y)) for x, y in one["points"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"a {kind} whose points are no pairs of numbers: {one.get('points')!r:.80}") from error
    if len(points) < LEAST.get(kind, 0):
        raise UserError(f"a {kind} of {len(points)} point(s), expected {LEAST[kind]}")
    if kind == "rectangle":
        x0, y0, x1, y1 = (limit(point[axis] for point in points) for limit in (min, max) for axis in (0, 1))
        if all(x in (x0, x1) and y in (y0, y1) for x, y in points):
            return Rectangle((x0, y0, x1, y1))
    if kind in ("polygon", "rotation", "rectangle"):
        return Polygon((tuple(value for point in points for value in point),))
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points[0], points[-1]
        radius = math.hypot(edge_x - x, edge_y - y)
        return ellipse(x, y, radius, radius)
    if kind == "mask":
        x0, y0 = (min(points[0][axis], points[-1][axis]) for axis in (0, 1))
        return _mask(one["mask"], (int(x0), int(y0)), size)
    return None


def _mask(data: str, corner: tuple[int, int], size: tuple[int, int] | None) -> RunLengths:
    """A mask, given as a PNG in base64 whose upper left corner lies at `corner`."""
    if size is None or not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise UserError("a mask in a picture of unknown size; imageWidth and imageHeight are needed")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG",)) as picture:
            if picture.width > size[0] + 1 or picture.height > size[1] + 1:
                raise UserError("a mask that is larger than its picture")
            part = np.asarray(picture.convert("L")) > 0
    except UnidentifiedImageError as error:
        raise UserError("a mask that is no PNG") from error
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"a mask that cannot be read: {error}") from error
    mask = np.zeros((size[1], size[0]), bool)
    left, top = max(corner[0], 0), max(corner[1], 0)
    part = part[top - corner[1] : size[1] - corner[1], left - corner[0] : size[0] - corner[0]]
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return encoded(mask)
