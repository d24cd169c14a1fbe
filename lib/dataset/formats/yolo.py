"""YOLO: a text file for each picture, beside it or in `labels` where it lies in `images`.

Its lines are `class x y width height` (centre and size of a box) or `class x0 y0 x1 y1 ...` (a segment of three points
or more), as shares of the picture. The classes' names stand in `data.yaml`, `classes.txt` or `obj.names`. An empty
file, or none where other pictures of the folder have one, means a good picture.
"""

import re
from itertools import chain, islice
from pathlib import Path

import yaml

from lib.core.errors import UserError
from lib.core.records import GOOD
from lib.dataset.album import Album, AnnotatedPictures
from lib.dataset.annotations import Polygon, Rectangle, Shape
from lib.dataset.findings import Findings, shortlist
from lib.dataset.pictures import Picture
from lib.dataset.reading import LOOKED_AT, annotation_files, numbers, read_text

GOODS, DEFECTS = "pictures whose file of labels is empty, and those in a folder `good`", "lines in files of labels"
LISTS = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
ODD = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)  # what values of odd kinds raise
PICTURES, LABELS = "images", "labels"


def recognises(base: Path) -> str | None:
    """Why the folder is taken for YOLO, or None. Files of labels that are all broken are a sign, too."""
    pairs = ((picture, _labels_of(base, picture)) for picture in Album(base).paths)
    files = list(islice(((picture, labels) for picture, labels in pairs if labels.is_file()), LOOKED_AT))
    sound = (labels for _, labels in files if _holds_labels(labels))
    meant = (labels for picture, labels in files if labels.parent != picture.parent or _holds_numbers(labels))
    found = next(chain(sound, meant), None)
    return f"{found.relative_to(base).as_posix()} beside its picture" if found else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """All pictures that have a file of labels, or lie beside ones that have; adds to the findings what is wrong."""
    found = AnnotatedPictures(base, findings)
    class_of = _names(base, findings)
    label_of = {picture: _labels_of(base, picture) for picture in found.album.paths}
    folders = {labels.parent for labels in label_of.values() if labels.is_file()}
    without, broken = [], []
    for picture, labels in label_of.items():
        if labels.parent not in folders or (picture.parent.name.casefold() == GOOD and not labels.is_file()):
            continue
        notes = found.picture(picture.relative_to(base).as_posix(), base / labels.name, shares=True)
        if notes is None:
            continue
        notes.source = labels
        if not labels.is_file():
            without.append(str(picture))
            continue
        with found.file(labels, "YOLO"):
            for number, line in enumerate(read_text(labels).splitlines(), start=1):
                if line.strip():
                    if (parsed := _parsed(line)) is None:
                        broken.append(f"{labels}, line {number}: {line.strip()!r:.80}")
                        break
                    found.region(notes, class_of.get(parsed[0], f"class_{parsed[0]}"), parsed[1])
    if broken:
        findings.problems.append(
            f"{len(broken)} file(s) of labels hold other lines; expected a class and 4 numbers of a box, or 6 and more "
            f"of a segment, all from 0 to 1: {shortlist(broken)}; export them anew, or set dataset.layout where they "
            f"are no labels"
        )
    if without:
        findings.warnings.append(
            f"{len(without)} picture(s) without a file of labels count as good: {shortlist(without)}"
        )
    orphans = {path for folder in folders for path in folder.glob("*.txt")} - {*label_of.values()}
    if lost := sorted(str(path) for path in orphans if path.name not in LISTS and _holds_labels(path)):
        findings.problems.append(
            f"{len(lost)} file(s) of labels without a picture: {shortlist(lost)}; add or remove them"
        )
    return found.pictures()


def _labels_of(base: Path, picture: Path) -> Path:
    """Where the labels of a picture lie: in `labels` for the last folder `images` above it, else beside it."""
    parts = list(picture.relative_to(base).with_suffix(".txt").parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == PICTURES:
            parts[index] = LABELS
            break
    return base.joinpath(*parts)


def _parsed(line: str) -> tuple[int, Shape] | None:
    """Class and shape of a line; None for a line of another kind."""
    values = numbers(line)
    if not values or len(values) < 5 or not (values[0].is_integer() and 0 <= values[0] < 1e6):
        return None
    rest = tuple(values[1:])
    if not all(-0.5 <= value <= 1.5 for value in rest):  # a border that is cut a little off is still one
        return None
    if len(rest) == 4:
        x, y, width, height = rest
        return int(values[0]), Rectangle((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return (int(values[0]), Polygon((rest,))) if len(rest) >= 6 and len(rest) % 2 == 0 else None


def _first_line(path: Path) -> str:
    """The first line that is not blank; nothing where there is none, or where the file cannot be read."""
    try:
        return next((line for line in read_text(path).splitlines() if line.strip()), "")
    except UserError:
        return ""


def _holds_labels(path: Path) -> bool:
    return _parsed(_first_line(path)) is not None


def _holds_numbers(path: Path) -> bool:
    """Whether labels may have been meant: numbers in any unit behind a class of any name."""
    _, *rest = re.split(r"[\s,;]+", _first_line(path).strip())
    return len(rest) >= 4 and numbers(" ".join(rest)) is not None


def _names(base: Path, findings: Findings) -> dict[int, str]:
    """The names of the classes, by their number; empty, with a warning, where they stand nowhere."""
    for path in annotation_files(base, ".yaml", ".yml"):
        try:
            names = (yaml.safe_load(read_text(path)) or {}).get("names")
            if isinstance(names, list):
                names = dict(enumerate(names))
            if isinstance(names, dict):
                if any(isinstance(name, list | dict) for name in names.values()):  # aliases can nest without end
                    raise ValueError("names of classes are words, not lists")
                return {int(number): str(name) for number, name in names.items()}
        except (UserError, yaml.YAMLError, *ODD) as error:
            findings.warnings.append(f"{path}: not read: {error}")
    for folder in (base, *(path for path in sorted(base.glob("*")) if path.is_dir())):
        for name in LISTS:
            if (folder / name).is_file():
                try:
                    lines = read_text(folder / name).splitlines()
                except UserError as error:
                    findings.warnings.append(str(error))
                    continue
                return dict(enumerate(line.strip() for line in lines if line.strip()))
    findings.warnings.append(
        f"{base}: the classes have no names, in a data.yaml or classes.txt; numbers stand for them"
    )
    return {}
