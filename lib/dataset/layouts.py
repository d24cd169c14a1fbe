"""Which pictures, masks and groups a data set's folders name, before any picture is opened.

Two layouts are read, told apart by the folders `train` and `test`:

- MVTec AD: `<category>/train/good`, `test/good`, `test/<type>`, masks in `ground_truth/<type>`;
- plain folders: `<category>/good`, `<category>/<type>`, masks in `masks/<type>`, in `ground_truth/<type>`, or beside
  the pictures.

A mask is named `<stem>_mask` or, in a folder of masks, also `<stem>`. In the first layout, `twins/<type>` may hold
pictures of `test/<type>` once more, under the same names and without their defect: the exact truth of a mask.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from lib.core.errors import UserError
from lib.core.images import SUFFIXES
from lib.core.params import Dataset, Name
from lib.core.records import GOOD

NAMES_IN_MESSAGE = 10  # of a list; beyond them only their number is told
TRAIN, TEST, TWINS = "train", "test", "twins"
MASK_FOLDERS = ("ground_truth", "masks")
MASK_ENDING = "_mask"
FOLDER_NAME: TypeAdapter[str] = TypeAdapter(Name)
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class DatasetProblems(UserError):  # noqa: N818 (it carries many)
    """Everything that forbids the use of a data set, one sentence per problem in `problems`.

    The warnings, which may explain a problem, are told before it.
    """

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = ()) -> None:
        lines = (f"{number}. {problem}" for number, problem in enumerate(problems, start=1))
        head = "".join(f"WARNING: {warning}\n" for warning in warnings)
        super().__init__(f"{head}the data set has {len(problems)} problem(s), nothing is written:\n" + "\n".join(lines))
        self.problems, self.warnings = tuple(problems), tuple(warnings)


@dataclass
class Findings:
    """What a person has to know about a data set: problems forbid its use, warnings do not."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """A picture as the folders present it; `folder` is `train` or `test` in the MVTec AD layout, else empty."""

    defect_type: str
    folder: str
    path: Path
    mask: Path | None = None
    twin: Path | None = None  # the same picture without its defect

    @property
    def id(self) -> str:
        """`<type>-<folder>-<stem>`, without the folder in a plain layout."""
        return "-".join(filter(None, (self.defect_type, self.folder, self.path.stem)))


class Layout(NamedTuple):
    """The folders of one category: of pictures, each with its part (`train`, `test` or nothing), and of masks."""

    base: Path
    pictures: tuple[tuple[str, Path], ...]
    defects: Path  # holds a folder of pictures for each defect type
    masks: tuple[Path, ...]  # each holds a folder of masks for each defect type
    others: tuple[Path, ...] = ()  # folders that nothing reads

    def masks_of(self, defect_type: str) -> list[Path]:
        """Where masks of a defect type may lie."""
        return [folder / defect_type for folder in self.masks]


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A sort key that puts 2 before 10 and takes any name; equal numbers (1, 01) go by their spelling."""
    pieces = re.split(r"([0-9]+)", name)  # text and number take turns
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name


def shortlist(names: Sequence[str], between: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - NAMES_IN_MESSAGE
    return between.join(names[:NAMES_IN_MESSAGE]) + (f" and {rest} more" if rest > 0 else "")


def fits(name: str) -> bool:
    """Whether a category's or a defect type's name is a `params.Name`, fit for paths and shells."""
    try:
        FOLDER_NAME.validate_python(name)
    except ValidationError:
        return False
    return True


def read_category(root: Path, category: str, findings: Findings) -> list[Picture]:
    """The pictures of one category in either layout, in natural order within each folder.

    Adds to the findings what the names alone tell: pictures and masks without each other,
    names that are unfit for a path, files that nothing reads. Raises DatasetProblems when there is no such category.
    """
    layout = _layout_of(_category_folder(root, category))
    _report_unread(layout, findings)
    pictures: list[Picture] = []
    for part, folder in layout.pictures:
        if part == TRAIN and folder.name != GOOD:
            findings.problems.append(f"{folder}: defects in train/; move them to {layout.defects / folder.name}")
        else:
            pictures += _read_folder(layout, part, folder, findings)
    _report_masks_without_pictures(layout, findings)
    return pictures


def _category_folder(root: Path, category: str) -> Path:
    """The folder of a category; raises DatasetProblems when its name is unfit or the folder is not there."""
    if not fits(category):
        raise DatasetProblems([f"the category {category!r}: no name of at most 64 letters, digits, _ and -"])
    base = root / category
    if not base.is_dir():
        content = (
            shortlist([folder.name for folder in _folders(root)]) if root.is_dir() else "nothing, it is missing too"
        )
        message = (
            f"{base}: this folder is missing; {root} holds: {content}; correct dataset.path or dataset.categories in "
            f"params.yaml, or run the stage that makes the data set"
        )
        raise DatasetProblems([message])
    return base


def _layout_of(base: Path) -> Layout:
    """The layout of a category's folder: MVTec AD's where it has a folder `train` or `test`, else plain folders."""
    parts = [part for part in (TRAIN, TEST) if (base / part).is_dir()]
    if not parts:
        pictures = [("", folder) for folder in _folders(base) if folder.name not in MASK_FOLDERS]
        return Layout(base, tuple(pictures), base, tuple(base / name for name in MASK_FOLDERS))
    pictures = [(part, folder) for part in parts for folder in _folders(base / part)]
    others = [folder for folder in _folders(base) if folder.name not in (TRAIN, TEST, TWINS, *MASK_FOLDERS)]
    return Layout(base, tuple(pictures), base / TEST, (base / MASK_FOLDERS[0],), tuple(others))


def _report_unread(layout: Layout, findings: Findings) -> None:
    """Warn of pictures that lie beside the folders that are read."""
    above = {layout.base, *(folder.parent for _, folder in layout.pictures)}
    above |= {layout.base / part for part in (TRAIN, TEST) if (layout.base / part).is_dir()}
    for folder in sorted(above):
        files = [one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and one.is_file()]
        if strays := sorted((one.name for one in files if not one.name.startswith(".")), key=natural_key):
            findings.warnings.append(
                f"{folder}: not read: {len(strays)} picture(s) that lie in no folder of a type: {shortlist(strays)}"
            )
    if others := [folder.name for folder in layout.others]:
        findings.warnings.append(
            f"{layout.base}: not read: the folder(s) {shortlist(others)}; beside {TRAIN} and {TEST}, pictures belong "
            f"into {TRAIN}/{GOOD}, {TEST}/{GOOD} and {TEST}/<type>, masks into {MASK_FOLDERS[0]}/<type>"
        )


def _read_folder(layout: Layout, part: str, folder: Path, findings: Findings) -> list[Picture]:
    """The pictures of one folder, each with its mask and its twin; notes what is wrong with their names."""
    defect_type = folder.name
    if not fits(defect_type):
        findings.problems.append(f"{folder}: unfit as the name of a defect type; {_advice(defect_type)}")
    files = _files(folder, findings)
    masks = [] if part else [file for file in files if file.stem.endswith(MASK_ENDING)]
    images = [file for file in files if file not in masks]
    for place in layout.masks_of(defect_type):
        if part != TRAIN and place.is_dir():
            masks += _files(place, findings)
    if not images:
        findings.warnings.append(f"{folder}: no picture in it; nothing is read from this folder")
    if defect_type != GOOD and len(images) > 1 and not masks:
        findings.problems.append(_all_masks_missing(layout, folder, images))
        return [Picture(defect_type, part, image) for image in images]
    mask_of = _match_masks(folder, images, masks, findings)
    if unfit := [image for image in images if not FILE_NAME.fullmatch(image.name)]:
        names = shortlist([repr(image.name) for image in unfit])
        findings.problems.append(f"{folder}: {len(unfit)} name(s) unfit for a file: {names}; {_advice(unfit[0].stem)}")
    for image in images if defect_type != GOOD else []:
        if image not in mask_of:
            advice = f"add a mask named {image.stem}{MASK_ENDING}.png, or move the picture to the good ones"
            findings.problems.append(f"{image}: a defect picture without a mask; {advice}")
    twin_of = _twins_of(layout, part, defect_type, images)
    return [Picture(defect_type, part, image, mask_of.get(image), twin_of.get(image)) for image in images]


def _all_masks_missing(layout: Layout, folder: Path, images: Sequence[Path]) -> str:
    """One problem for a whole folder, instead of one for each of its pictures."""
    places = " or ".join(map(str, layout.masks_of(folder.name)))
    unread = f" (not read: {shortlist([other.name for other in layout.others])})" if layout.others else ""
    return (
        f"{folder}: {len(images)} defect pictures and not one mask; add masks to {places}, named like "
        f"{images[0].stem}{MASK_ENDING}.png, or move the pictures to the good ones{unread}"
    )


def _match_masks(folder: Path, images: Sequence[Path], masks: Sequence[Path], findings: Findings) -> dict[Path, Path]:
    """The mask of each picture of a folder, by their names; notes masks that have no picture, or a picture twice."""
    if folder.name == GOOD and masks:
        findings.warnings.append(f"{masks[0].parent}: {len(masks)} masks of good pictures are ignored")
        return {}
    by_stem = {image.stem: image for image in images}
    mask_of: dict[Path, Path] = {}
    for mask in masks:
        stem = mask.stem.removesuffix(MASK_ENDING)
        image = by_stem.get(mask.stem) or by_stem.get(stem)
        if image is None:
            findings.problems.append(
                f"{mask}: a mask without a picture; add {stem}.png (or .jpg, ...) to {folder} or remove the mask"
            )
        elif image in mask_of:
            findings.problems.append(f"{mask}: a second mask of {image}, beside {mask_of[image]}; remove one of them")
        else:
            mask_of[image] = mask
    return mask_of


def _twins_of(layout: Layout, part: str, defect_type: str, images: Sequence[Path]) -> dict[Path, Path]:
    """The defect-free twins that pictures of `test` may have, by the pictures."""
    twins = layout.base / TWINS / defect_type
    if part != TEST or defect_type == GOOD or not twins.is_dir():
        return {}
    return {image: twins / image.name for image in images if (twins / image.name).exists()}


def _report_masks_without_pictures(layout: Layout, findings: Findings) -> None:
    """Note the masks of defect types that have no folder of pictures."""
    types = {folder.name for part, folder in layout.pictures if part != TRAIN}
    for masks in layout.masks:
        for folder in _folders(masks) if masks.is_dir() else []:
            if folder.name not in types:
                _match_masks(layout.defects / folder.name, [], _files(folder, findings), findings)


def read_groups(dataset: Dataset, pictures: Sequence[Picture], findings: Findings) -> dict[str, str]:
    """The capture group of every picture, by the picture's id.

    From the column `group_column` of `group_table`, whose column `path` is relative to the data set, or from the
    first group of the regular expression `group_pattern`, searched in that path. A picture without a value there, and
    every picture where neither is set, is a group of its own.
    """
    root = Path(dataset.path)
    names = {picture.id: picture.path.relative_to(root).as_posix() for picture in pictures}
    if dataset.group_table is not None and dataset.group_column is not None:
        source = f"{root / dataset.group_table}, column {dataset.group_column!r}"
        groups = _groups_from_table(source, root, dataset.group_table, dataset.group_column, names, findings)
    elif dataset.group_pattern is not None:
        source = f"dataset.group_pattern {dataset.group_pattern!r}"
        groups = _groups_from_pattern(source, dataset.group_pattern, names, findings)
    else:
        return {key: key for key in names}
    if missing := [names[key] for key, group in groups.items() if not group]:
        findings.warnings.append(
            f"{source}: no group for {len(missing)} of {len(names)} pictures, each of which "
            f"becomes a group of its own: {shortlist(missing)}"
        )
    return {key: group or key for key, group in groups.items()}


def _groups_from_table(
    source: str, root: Path, table: str, column: str, names: dict[str, str], findings: Findings
) -> dict[str, str]:
    """The group of each picture, or "", by id, from a table in the data set; names: paths in the data set, by id."""
    group_of = _read_table(root / table, column, findings)
    if group_of and not any(name in group_of for name in names.values()):
        findings.problems.append(
            f"{source}: no row for any picture; the column 'path' must hold paths relative to "
            f"{root}, such as {next(iter(names.values()), 'category/good/1.png')}"
        )
    return {key: group_of.get(name, "") for key, name in names.items()}


def _groups_from_pattern(source: str, pattern: str, names: dict[str, str], findings: Findings) -> dict[str, str]:
    """The group of each picture, or "", by id, from its path; none at all where the pattern is unfit."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        findings.problems.append(f"{source}: no regular expression: {error}")
        return {}
    if not compiled.groups:
        findings.problems.append(f"{source}: has no group; put parentheses around what names the capture group")
        return {}
    groups = {key: (match[1] or "") if (match := compiled.search(name)) else "" for key, name in names.items()}
    if groups and not any(groups.values()):
        findings.problems.append(f"{source}: matches no picture, such as {next(iter(names.values()))}")
    return groups


def _read_table(path: Path, column: str, findings: Findings) -> dict[str, str]:
    """Group by picture path from a CSV file; empty, with a problem noted, when it cannot be read."""
    groups: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if absent := [name for name in ("path", column) if name not in (reader.fieldnames or ())]:
                findings.problems.append(
                    f"{path}: no column {', '.join(map(repr, absent))}; the columns are "
                    f"{', '.join(reader.fieldnames or ())} (separated by commas)"
                )
                return {}
            for row in reader:
                name = PurePosixPath((row["path"] or "").strip().replace("\\", "/")).as_posix()
                group = (row[column] or "").strip()
                if groups.setdefault(name, group) != group:
                    findings.problems.append(
                        f"{path}, line {reader.line_num}: {name} is in two groups, "
                        f"{groups[name]!r} and {group!r}; keep one row for each picture"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        findings.problems.append(
            f"{path}: cannot be read as a CSV table in UTF-8: {error}; set dataset.group_table and "
            f"dataset.group_column right, or both to null"
        )
        return {}
    return groups


def _folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, in natural order."""
    return sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: natural_key(entry.name),
    )


def _files(folder: Path, findings: Findings) -> list[Path]:
    """The visible pictures in a folder, in natural order; a dangling link counts, so that it is read and refused."""
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: natural_key(e.name))
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    if ignored := [entry.name for entry in entries if entry not in files]:
        findings.warnings.append(f"{folder}: not read, since no {', '.join(SUFFIXES)} file: {shortlist(ignored)}")
    return files


def _advice(name: str) -> str:
    """How to rename what has an unfit name."""
    better = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-") or "a_name"
    return f"use only letters, digits, _ and -, and no - or . at the start: rename it to, say, {better}"
