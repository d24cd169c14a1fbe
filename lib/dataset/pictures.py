"""The pictures of a data set before any is opened, and names that are valid in paths."""

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lib.core.errors import shortlist
from lib.core.images import SUFFIXES
from lib.core.params import Name
from lib.core.records import GOOD, MIXED
from lib.dataset.annotations import Annotation, Region
from lib.dataset.findings import Findings, natural_key

TRAIN, VAL, TEST = "train", "val", "test"
PART_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "test": TEST,
    "testing": TEST,
}  # what data sets call them
GOOD_WORDS = (GOOD, "normal", "ok")  # what data sets call good pictures, in upper or lower case
FOLDER_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Picture:
    """A picture as the data set presents it.

    `folder`: its part in the data set, `train`, `val` or `test`, or "". `annotation`: regions from which the mask is
    drawn, if it has no file. `group`: its capture group, if the layout gives it. `name`: for ids, if the stem of its
    file is invalid or not unique.
    """

    defect_type: str
    folder: str
    path: Path
    mask: Path | None = None
    twin: Path | None = None  # the same picture without its defect
    annotation: Annotation | None = None
    group: str | None = None
    name: str | None = None

    @property
    def id(self) -> str:
        """`<type>-<folder>-<stem>`, without the folder where there is none."""
        return "-".join(filter(None, (self.defect_type, self.folder, self.name or self.path.stem)))

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its defects, or GOOD."""
        if self.annotation is None:
            return (self.defect_type,)
        return tuple(sorted({region.defect_type for region in self.annotation.regions}))

    @property
    def several(self) -> bool:
        """Whether it has defects of several types; its type does not show that, since an ordinary one may be MIXED."""
        return len(self.types) > 1


def fits(name: str) -> bool:
    """Whether a category's or a defect type's name is a `params.Name`, fit for paths and shells."""
    try:
        FOLDER_NAME.validate_python(name)
    except ValidationError:
        return False
    return True


def is_good(word: object) -> bool:
    """Whether a label, or the name of a folder, is a word for good pictures."""
    return str(word).strip().casefold() in GOOD_WORDS


def fitted(name: str) -> str:
    """A valid name that resembles the given one: accents are removed, other characters become _."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")[:60] or "unnamed"


class TypeNames:
    """Valid names of defect types for the labels of a data set: one name for each label.

    kept: labels that are their own names.
    """

    def __init__(self, kept: Iterable[str] = ()) -> None:
        self.of = {name: name for name in kept}

    def __call__(self, label: object) -> str:
        """The name for a label."""
        text = str(label)
        if text not in self.of:
            self.of[text] = distinct(fitted(text), {GOOD, *(name.casefold() for name in self.of.values())})
        return self.of[text]

    def warn(self, findings: Findings) -> None:
        """Say which labels have another name here."""
        changed = {given: name for given, name in self.of.items() if given != name}
        clashes = [f"{given!r} is {name}" for given, name in changed.items() if fitted(given) == given]
        unfit = [f"{given!r} is {name}" for given, name in changed.items() if fitted(given) != given]
        if clashes:
            findings.warnings.append(
                f"{len(clashes)} defect type(s) are called like another one but for upper and lower case, or signs: "
                f"{shortlist(clashes)}; give them one name if they are the same"
            )
        if unfit:
            findings.warnings.append(f"{len(unfit)} defect type(s) have names unfit for a path: {shortlist(unfit)}")


def distinct(name: str, taken: Container[str]) -> str:
    """The name, with a number appended if it is taken, regardless of case."""
    number, fresh = 1, name
    while fresh.casefold() in taken:
        number += 1
        fresh = f"{name}_{number}"
    return fresh


def picture_names(paths: Iterable[Path], base: Path) -> dict[Path, str]:
    """Unique, valid names for the ids of all pictures below `base`: the stem, or the whole path if it is not unique."""
    paths = sorted(paths, key=lambda path: natural_key(path.as_posix()))
    often = Counter(fitted(path.stem).casefold() for path in paths)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        short = fitted(path.stem)
        long = fitted(path.relative_to(base).with_suffix("").as_posix().replace("/", "_"))
        names[path] = distinct(short if often[short.casefold()] == 1 else long, taken)
        taken.add(names[path].casefold())
    return names


def by_path(files: Iterable[Path], base: Path, key: str, findings: Findings) -> dict[Path, Path]:
    """The visible pictures among files, by their path below `base` without the ending: so they name others.

    Adds a problem to the findings, under a key of params.yaml, where two have the same path.
    """
    pictures_of: dict[Path, Path] = {}
    for file in sorted(files):
        hidden = any(name.startswith(".") for name in file.relative_to(base).parts)
        if file.suffix.lower() in SUFFIXES and not hidden:
            first = pictures_of.setdefault(file.relative_to(base).with_suffix(""), file)
            if first is not file:
                findings.problems.append(f"{key}: {file}: a second picture beside {first.name}; remove one of them")
    return pictures_of


def part_of(path: Path) -> str:
    """The part that the folders of a path name, the last one that does, or nothing; COCO's `train2017` counts, too."""
    names = [folder.lower().rstrip("0123456789_-") for folder in path.parts[:-1]]
    return next((PART_NAMES[name] for name in reversed(names) if name in PART_NAMES), "")


def part_of_words(stem: str) -> str:
    """The part that a word in the name of an annotation file tells, such as `instances_train2017`; or nothing."""
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word in PART_NAMES]
    return PART_NAMES[words[-1]] if words else ""


def type_of(regions: Sequence[Region]) -> str:
    """The defect type of a picture with these regions: theirs, MIXED where they are of several, or GOOD without any."""
    types = {region.defect_type for region in regions}
    return next(iter(types)) if len(types) == 1 else MIXED if types else GOOD
