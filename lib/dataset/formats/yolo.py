"""YOLO: a text file for each picture, beside it or in `labels` where it lies in `images`.

Its lines are `class x y width height` (centre and size of a box) or `class x0 y0 x1 y1 ...` (a segment of three points
or more), as shares of the picture; of poses the boxes are read. The classes' names stand in `data.yaml`, `classes.txt`
or `obj.names`. An empty file, or none where other pictures of the folder have one, means a good picture.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import yaml

from lib.core.errors import UserError, shortlist
from lib.dataset.album import Album, AnnotatedPictures
from lib.dataset.annotations import Polygon, Rectangle, Shape
from lib.dataset.findings import Findings
from lib.dataset.pictures import Picture, is_good
from lib.dataset.reading import LOOKED_AT, annotation_files, numbers, read_text

GOODS, DEFECTS = "pictures whose file of labels is empty, and those in a folder `good`", "lines in files of labels"
LISTS = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
ODD = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)  # what values of odd kinds raise
PICTURES, LABELS = "images", "labels"
SLACK = 0.01  # of a picture, by which a rounded box may leave it


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as YOLO, or None. Files of labels that are all broken are a sign, too."""
    pairs = _labels_of(base, Album(base).paths).items()
    files = list(islice(((picture, labels) for picture, labels in pairs if labels.is_file()), LOOKED_AT))
    sound = (labels for _, labels in files if _holds_labels(labels))
    meant = (labels for picture, labels in files if labels.parent != picture.parent or _holds_numbers(labels))
    sign = next(chain(sound, meant), None)
    return f"{sign.relative_to(base).as_posix()} beside its picture" if sign else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """All pictures that have a file of labels, or lie beside ones that have; adds problems to the findings."""
    collection = AnnotatedPictures(base, findings)
    lines = Lines(_names(base, findings), _keypoints(base))
    label_of = _labels_of(base, collection.album.paths)
    folders = {labels.parent for labels in label_of.values() if labels.is_file()}
    pictures_of: dict[Path, list[str]] = defaultdict(list)
    for picture, labels in label_of.items():
        if labels.is_file():
            pictures_of[labels].append(picture.name)
    if shared := [f"{labels} of {', '.join(names)}" for labels, names in pictures_of.items() if len(names) > 1]:
        findings.problems.append(
            f"{len(shared)} file(s) of labels are of several pictures: {shortlist(shared)}; rename pictures and labels"
        )
    without, broken = [], []
    for picture, labels in label_of.items():
        if labels.parent not in folders or (is_good(picture.parent.name) and not labels.is_file()):
            continue
        notes = collection.picture(picture.relative_to(base).as_posix(), base / labels.name, shares=True)
        if notes is None:
            continue
        notes.source = labels
        if not labels.is_file():
            without.append(str(picture))
            continue
        with collection.file(labels, "YOLO"):
            for number, line in enumerate(read_text(labels).splitlines(), start=1):
                if line.strip():
                    if (parsed := lines.parsed(line)) is None:
                        broken.append(f"{labels}, line {number}: {line.strip()!r:.80}")
                        break
                    collection.region(notes, *parsed)
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
    lines.tell(base, findings)
    orphans = {path for folder in folders for path in _texts(folder).values()} - {*label_of.values()}
    if lost := sorted(str(path) for path in orphans if path.name not in LISTS and _holds_labels(path)):
        findings.problems.append(
            f"{len(lost)} file(s) of labels without a picture: {shortlist(lost)}; add or remove them"
        )
    return collection.pictures()


class Lines:
    """Lines of labels: what each says, and what all of them together are taken for."""

    def __init__(self, class_of: dict[int, str], points: int | None) -> None:
        """points: how many numbers of keypoints stand behind each box, where the labels are those of poses."""
        self.class_of, self.points = class_of, points
        self.lengths: Counter[int] = Counter()
        self.unnamed: Counter[str] = Counter()
        self.numbered = self.boxlike = 0  # of lines of seven words

    def parsed(self, line: str) -> tuple[str, Shape] | None:
        """The name of a line's class and its shape; None for a line of another kind."""
        words = line.split()
        if self.points is not None and len(words) == 5 + self.points:
            words = words[:5]
        if (parsed := _parsed(" ".join(words))) is None:
            return None
        number, shape = parsed
        self.lengths[len(words)] += 1
        if len(words) == 7:
            self.numbered += words[6].isdigit()
            self.boxlike += _is_box_within(*map(float, words[1:5]))
        if number not in self.class_of:
            self.unnamed[f"class_{number}"] += 1
        return self.class_of.get(number, f"class_{number}"), shape

    def tell(self, base: Path, findings: Findings) -> None:
        """Add to the findings which classes have no name, and whether triangles may be something else."""
        if self.class_of and self.unnamed:
            listed = [f"{name} ({often} line(s))" for name, often in sorted(self.unnamed.items())]
            findings.warnings.append(f"{base}: {len(listed)} class(es) have no name: {shortlist(listed)}; add them")
        if self.points:
            findings.warnings.append(f"{base}: of labels of poses (kpt_shape) the boxes are read, and no keypoints")
        number = self.lengths[7]
        if not number or {*self.lengths} != {7} or self.boxlike < number:
            return
        if self.numbered == number:
            findings.problems.append(
                f"{base}: all {number} line(s) of labels are a box, a score and a whole number, as tracking writes "
                f"them, and no triangles; save them as `class x y width height`"
            )
        else:
            findings.warnings.append(
                f"{base}: all {number} line(s) of labels have six numbers, and are read as triangles; where they are a "
                f"box with two more numbers, such as a keypoint, save them as `class x y width height`"
            )


def _is_box_within(x: float, y: float, width: float, height: float) -> bool:
    """Whether a box lies in its picture, all as shares of it."""
    return all(
        centre - side / 2 >= -SLACK and centre + side / 2 <= 1 + SLACK for centre, side in ((x, width), (y, height))
    )


def _texts(folder: Path) -> dict[str, Path]:
    """The text files in a folder by their stem, whatever the case of their ending."""
    files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    return {path.stem: path for path in files if path.suffix.lower() == ".txt"}


def _folder_of_labels(above: Path) -> str:
    """The name of the folder of labels in the folder `above`, in upper or lower case."""
    names = sorted(path.name for path in above.iterdir() if path.name.lower() == LABELS and path.is_dir())
    return names[-1] if names else LABELS


def _labels_of(base: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """Where the labels of each picture lie: in `labels` for the last folder `images` above it, else beside it.

    Both names may be in upper or lower case.
    """
    texts: dict[Path, dict[str, Path]] = {}
    label_of = {}
    beside = lru_cache(_folder_of_labels)
    for picture in pictures:
        parts = list(picture.relative_to(base).with_suffix(".txt").parts)
        for index in reversed(range(len(parts) - 1)):
            if parts[index].lower() == PICTURES:
                parts[index] = beside(base.joinpath(*parts[:index]))
                break
        usual = base.joinpath(*parts)
        if usual.parent not in texts:
            texts[usual.parent] = _texts(usual.parent)
        label_of[picture] = texts[usual.parent].get(usual.stem, usual)
    return label_of


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


def _keypoints(base: Path) -> int | None:
    """How many numbers of keypoints stand behind each box, as `kpt_shape` says; None where the labels are no poses."""
    for path in annotation_files(base, ".yaml", ".yml"):
        with suppress(UserError, yaml.YAMLError, *ODD):  # told where the names are read
            if (shape := (yaml.safe_load(read_text(path)) or {}).get("kpt_shape")) is not None:
                number, each = map(int, shape)
                return number * each
    return None


def _names(base: Path, findings: Findings) -> dict[int, str]:
    """The names of the classes, by their number; empty, with a warning, where they stand nowhere.

    All lists must agree: labelImg writes one into each folder, in the order in which types were met there.
    """
    lists = list(_lists(base, findings))
    if not lists:
        findings.warnings.append(
            f"{base}: the classes have no names, in a data.yaml or classes.txt; numbers stand for them"
        )
        return {}
    (first, names), *others = lists
    for path, other in others:
        if odd := [n for n, name in other.items() if n in names and names[n].casefold() != name.casefold()]:
            findings.problems.append(
                f"{path}: class {odd[0]} is {other[odd[0]]!r}, in {first} it is {names[odd[0]]!r}; number the classes "
                f"alike in all labels below {base}, and keep one list"
            )
    return names


def _lists(base: Path, findings: Findings) -> Iterator[tuple[Path, dict[int, str]]]:
    """All files with names of classes, and these by their number; those in YAML first."""
    for path in annotation_files(base, ".yaml", ".yml"):
        try:
            names = (yaml.safe_load(read_text(path)) or {}).get("names")
            if isinstance(names, list):
                names = dict(enumerate(names))
            if isinstance(names, dict):
                if any(isinstance(name, list | dict) for name in names.values()):  # aliases can nest without end
                    raise ValueError("names of classes are words, not lists")
                yield path, {int(number): str(name) for number, name in names.items() if name not in (None, "")}
        except (UserError, yaml.YAMLError, *ODD) as error:
            findings.warnings.append(f"{path}: not read: {error}")
    for path in annotation_files(base, ".txt", ".names", ".labels"):
        if path.name in LISTS:
            try:
                lines = read_text(path).splitlines()
            except UserError as error:
                findings.warnings.append(str(error))
                continue
            yield path, {number: line.strip() for number, line in enumerate(lines) if line.strip()}
