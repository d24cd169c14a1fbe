"""Pascal VOC, as NEU-DET has it, too: an XML file with boxes for each picture.

The part stands in `ImageSets/Main/train.txt`, `val.txt` and `test.txt`, or in the name of a folder (`train`,
`validation`). A picture whose file holds no object is a good one.
"""

from pathlib import Path
from xml.etree.ElementTree import Element

from lib.core.errors import UserError
from lib.dataset.album import AnnotatedPictures
from lib.dataset.annotations import Rectangle
from lib.dataset.findings import Findings
from lib.dataset.pictures import PARTS, Picture
from lib.dataset.reading import annotation_files, read_text, read_xml, recognised

GOODS, DEFECTS = "pictures whose file holds no object, and those in a folder `good`", "objects"


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as Pascal VOC, or None."""
    found = recognised(base, ".xml", read_xml, _is_voc)
    return f"{found} holds the boxes of one picture" if found else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the XML files are about; adds problems to the findings."""
    found = AnnotatedPictures(base, findings)
    parts = _parts(found)
    for path in annotation_files(base, ".xml"):
        with found.file(path, "Pascal VOC"):
            root = read_xml(path)
            if not _is_voc(root):
                findings.warnings.append(f"{path}: not read, since it is no annotation of Pascal VOC")
                continue
            width, height = (int(_number(path, root, f"size/{key}", "0")) for key in ("width", "height"))
            name = _picture_name(root, path, found)
            notes = found.picture(
                name, path, parts.get(path.stem, ""), size=(width, height) if width * height else None
            )
            for one in root.findall("object") if notes else []:
                # Pixels count from 1, and the last one belongs to the box.
                x0, y0, x1, y1 = (_number(path, one, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
                found.region(notes, (one.findtext("name") or "").strip(), Rectangle((x0 - 1, y0 - 1, x1, y1)))  # type: ignore[arg-type]
    return found.pictures()


def _is_voc(root: Element) -> bool:
    return root.tag == "annotation" and (root.find("object") is not None or root.find("filename") is not None)


def _number(path: Path, element: Element, key: str, default: str = "") -> float:
    """A number below an element. Raises UserError where it is none."""
    text = element.findtext(key) or default
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{path}: {element.tag}: {key} is no number, but {text!r:.80}; correct or remove it") from error


def _picture_name(root: Element, path: Path, found: AnnotatedPictures) -> str:
    """The name that the file gives, where there is such a picture, else the file's own: they are often at odds."""
    named = (root.findtext("filename") or "").strip()
    try:
        found.album.find(named, path.parent)
    except UserError:
        return path.stem
    return named


def _parts(found: AnnotatedPictures) -> dict[str, str]:
    """The part of every picture that a list names, by the picture's stem."""
    parts: dict[str, str] = {}
    for listed in sorted(found.base.glob("**/ImageSets/Main/*.txt")):
        if listed.stem in PARTS:
            with found.file(listed, "Pascal VOC"):
                names = [line.split()[0] for line in read_text(listed).splitlines() if line.strip()]
                parts |= dict.fromkeys(names, PARTS[listed.stem])
    return parts
