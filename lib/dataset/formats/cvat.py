"""CVAT for images: one XML file with polygons, boxes, ellipses and masks of all pictures.

A picture is good if it has none of them, or only a tag that means "good". Its `subset`, or a folder, gives the part.
Lines, points and tags mark no area: a picture that has only these is left out.
"""

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from lib.core.errors import UserError, shortlist
from lib.core.images import MAX_PIXELS
from lib.dataset.album import AnnotatedPictures
from lib.dataset.annotations import Polygon, Rectangle, Shape, ellipse, turned_box
from lib.dataset.findings import Findings
from lib.dataset.mask_patches import RunLengths, encoded
from lib.dataset.pictures import Picture, part_of_words
from lib.dataset.reading import annotation_files, other_export, read_xml, recognised

GOODS, DEFECTS = "pictures without shapes, and those in a folder `good`", "shapes"


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as CVAT's export, or None."""
    sign = recognised(base, ".xml", read_xml, _is_cvat)
    return f"{sign} holds the shapes of many pictures" if sign else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the XML files name; adds problems to the findings."""
    collection = AnnotatedPictures(base, findings)
    for path in annotation_files(base, ".xml"):
        with collection.file(path, "CVAT for images 1.1"):
            root = read_xml(path)
            if not _is_cvat(root):
                other = other_export(root) or "it is no export of CVAT for images"
                findings.warnings.append(f"{path}: not read, since {other}")
                continue
            subsets = Counter(image.get("subset", "") for image in root.findall("image"))
            if strange := [f"{name} ({often})" for name, often in subsets.items() if name and not part_of_words(name)]:
                findings.warnings.append(f"{path}: subsets that are no part, and count for none: {shortlist(strange)}")
            for number, image in enumerate(root.findall("image")):
                with collection.annotation(path, f"image {image.get('name', number)}"):
                    _read_image(path, image, collection)
    return collection.pictures()


def _is_cvat(root: Element) -> bool:
    return root.tag == "annotations" and root.find("image") is not None


def _read_image(path: Path, image: Element, collection: AnnotatedPictures) -> None:
    name, size = image.attrib["name"], (int(image.attrib["width"]), int(image.attrib["height"]))
    notes = collection.picture(name, path, part_of_words(image.get("subset", "")), size=size)
    for number, element in enumerate(image if notes else [], start=1):
        with collection.annotation(path, f"{element.tag}, element {number} of {name}"):
            if (shape := _shape(element, size)) is None:
                collection.skip(element.tag, notes, [element.get("label", "")])
            else:
                collection.region(notes, element.attrib["label"], shape)  # type: ignore[arg-type]


def _shape(element: Element, size: tuple[int, int]) -> Shape | None:
    """The area of an element, or None where it has none."""

    def value(key: str) -> float:
        return float(element.attrib[key])

    if element.tag == "polygon":
        points = element.attrib["points"].replace(";", ",").split(",")
        return Polygon((tuple(map(float, points)),))
    if element.tag == "box":
        corners = value("xtl"), value("ytl"), value("xbr"), value("ybr")
        angle = float(element.get("rotation", 0))
        return turned_box(corners, angle) if angle else Rectangle(corners)
    if element.tag == "ellipse":
        return ellipse(value("cx"), value("cy"), value("rx"), value("ry"), float(element.get("rotation", 0)))
    if element.tag == "mask":
        return _mask(element, size)
    return None


def _mask(element: Element, size: tuple[int, int]) -> RunLengths:
    """A mask, given as run lengths in rows within a rectangle, the first of them outside."""
    left, top, wide, high = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
    counts = [int(word) for word in element.attrib["rle"].split(",")]
    width, height = size
    inside = left >= 0 and top >= 0 and wide > 0 and high > 0 and left + wide <= width and top + high <= height
    if width * height > MAX_PIXELS or not inside or min(counts) < 0 or sum(counts) != wide * high:
        raise UserError(f"run lengths that do not fill {wide} x {high} px at {left}, {top} of {width} x {height} px")
    mask = np.zeros((height, width), bool)
    mask[top : top + high, left : left + wide] = np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(high, wide)
    return encoded(mask)
