"""Pascal VOC, as NEU-DET has it, too: an XML file with boxes, or Roboflow's polygons, for each picture.

The part stands in `ImageSets/Main/train.txt`, `val.txt` and `test.txt`, or in the name of a folder (`train`,
`validation`). A picture whose file holds no object is a good one.
"""

from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from lib.core.errors import UserError, shortlist
from lib.core.images import SUFFIXES
from lib.dataset.album import AnnotatedPictures
from lib.dataset.annotations import Polygon, Rectangle, Shape
from lib.dataset.findings import Findings
from lib.dataset.pictures import PART_NAMES, Picture, is_good
from lib.dataset.reading import annotation_files, read_text, read_xml, recognised

GOODS, DEFECTS = "pictures whose file holds no object, and those in a folder `good`", "objects"


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as Pascal VOC, or None."""
    sign = recognised(base, ".xml", read_xml, _is_voc)
    return f"{sign} holds the boxes of one picture" if sign else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the XML files are about; adds problems to the findings."""
    collection = AnnotatedPictures(base, findings)
    parts = _parts(collection)
    at_odds, stems = [], set()
    for path in annotation_files(base, ".xml"):
        with collection.file(path, "Pascal VOC"):
            root = read_xml(path)
            if not _is_voc(root):
                findings.warnings.append(f"{path}: not read, since it is no annotation of Pascal VOC")
                continue
            stems.add(path.stem)
            size = None
            with collection.annotation(path, "size"):
                size = _size(root)
            name, other = _picture_name(root, path, collection)
            if other:
                at_odds.append(f"{path} ({other})")
                if any(is_good(_folder(one, path, collection)) for one in (name, other)):
                    findings.problems.append(
                        f"{path}: its own name leads to a picture, and {other} in it to another, of which one is in a "
                        f"folder of good ones; correct or rename the file"
                    )
            notes = collection.picture(name, path, parts.get(path.stem, ""), size=size)
            for number, one in enumerate(root.findall("object") if notes else [], start=1):
                with collection.annotation(path, f"object {number}"):
                    collection.region(notes, (one.findtext("name") or "").strip(), _shape(one))  # type: ignore[arg-type]
    if at_odds:
        findings.warnings.append(
            f"{base}: {len(at_odds)} file(s) name another picture than that of their own name, which counts: "
            f"{shortlist(at_odds)}"
        )
    if absent := sorted(parts.keys() - stems):
        findings.warnings.append(
            f"{base}: {len(absent)} picture(s) in ImageSets/Main have no file of boxes: {shortlist(absent)}"
        )
    return collection.pictures()


def _is_voc(root: Element) -> bool:
    return root.tag == "annotation" and (root.find("object") is not None or root.find("filename") is not None)


def _number(element: Element, key: str, default: str = "") -> float:
    """A number below an element. Raises UserError where it is none."""
    text = element.findtext(key) or default
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{key} is no number, but {text!r:.80}") from error


def _size(root: Element) -> tuple[int, int] | None:
    """Width and height of the annotated picture; None where the file has neither, or zeros."""
    width, height = (int(_number(root, f"size/{key}", "0")) for key in ("width", "height"))
    return (width, height) if width * height else None


def _shape(one: Element) -> Shape:
    """The polygon of an object, as Roboflow writes it (x1, y1, x2, ...), or its box."""
    if (polygon := one.find("polygon")) is not None and polygon.find("x1") is not None:
        count = sum(child.tag.startswith("x") for child in polygon)
        return Polygon((tuple(_number(polygon, f"{axis}{n}") for n in range(1, count + 1) for axis in "xy"),))
    # Pixels count from 1, and the last one belongs to the box.
    x0, y0, x1, y1 = (_number(one, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    return Rectangle((x0 - 1, y0 - 1, x1, y1))


def _picture_name(root: Element, path: Path, collection: AnnotatedPictures) -> tuple[str, str]:
    """The file's own name, where there is such a picture, first of all beside it, else the one in it; and, where both
    lead to pictures and they differ, the one that is passed over. Copied files often keep the name of the first one."""
    named, near = (root.findtext("filename") or "").strip(), collection.album.beside(path)
    name = near.name if near else path.stem
    own, other = near or _picture(name, path, collection), _picture(named, path, collection)
    if own is None:
        return (named, "") if other is not None else (name, "")
    return name, named if other not in (None, own) else ""


def _stem(name: str) -> str:
    """A picture's name without its ending."""
    return PurePosixPath(name).stem if name.lower().endswith(SUFFIXES) else name


def _folder(name: str, path: Path, collection: AnnotatedPictures) -> str:
    place = _picture(name, path, collection)
    return place.parent.name if place else ""


def _picture(name: str, path: Path, collection: AnnotatedPictures) -> Path | None:
    """The picture to which a name in a file leads, if any."""
    try:
        return collection.album.find(name, path.parent)
    except UserError:
        return None


def _parts(collection: AnnotatedPictures) -> dict[str, str]:
    """The part of every picture that a list names, by the picture's stem; one in two parts is a problem."""
    parts: dict[str, str] = {}
    for listed in sorted(collection.base.glob("**/ImageSets/Main/*.txt")):
        if listed.stem in PART_NAMES:
            with collection.file(listed, "Pascal VOC"):
                names = [_stem(line.split()[0]) for line in read_text(listed).splitlines() if line.strip()]
                part = PART_NAMES[listed.stem]
                if twice := [name for name in names if parts.get(name, part) != part]:
                    collection.findings.problems.append(
                        f"{listed}: {len(twice)} picture(s) are in the list of another part, too: {shortlist(twice)}; "
                        f"keep them in one"
                    )
                parts |= dict.fromkeys(names, part)
    return parts
