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

from pydantic import TypeAdapter, ValidationError

from lib.core.images import SUFFIXES
from lib.core.params import Dataset, Name
from lib.core.records import GOOD

SHOWN = 10  # names listed in one message; beyond them only the number is told
MASK_FOLDERS = ("ground_truth", "masks")
TWINS = "twins"
FOLDER_NAME: TypeAdapter[str] = TypeAdapter(Name)
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class DatasetProblems(ValueError):  # noqa: N818 (it carries many)
    """Everything that forbids the use of a data set, one sentence per problem in `problems`."""

    def __init__(self, problems: Sequence[str]) -> None:
        lines = (f"{number}. {problem}" for number, problem in enumerate(problems, start=1))
        super().__init__(f"the data set has {len(problems)} problem(s), nothing is written:\n" + "\n".join(lines))
        self.problems = tuple(problems)


@dataclass
class Findings:
    """What a person has to know about a data set: problems forbid its use, warnings do not."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def raise_problems(self) -> None:
        """Raise DatasetProblems with all problems found so far, if there are any."""
        if self.problems:
            raise DatasetProblems(self.problems)


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


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A sort key that puts 2 before 10 and takes any name; equal numbers (1, 01) go by their spelling."""
    pieces = re.split(r"([0-9]+)", name)  # text and number take turns
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name


def listed(names: Sequence[str], between: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - SHOWN
    return between.join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


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
    if not fits(category):
        raise DatasetProblems([f"the category {category!r}: no name of at most 64 letters, digits, _ and -"])
    base = root / category
    if not base.is_dir():
        found = listed([folder.name for folder in _folders(root)]) if root.is_dir() else "nothing, it is missing too"
        message = (
            f"{base}: this folder is missing; {root} holds: {found}; correct dataset.path or dataset.categories in "
            f"params.yaml, or run the stage that makes the data set"
        )
        raise DatasetProblems([message])
    parts = [part for part in ("train", "test") if (base / part).is_dir()]
    folders = (
        [(part, folder) for part in parts for folder in _folders(base / part)]
        if parts
        else [("", folder) for folder in _folders(base) if folder.name not in MASK_FOLDERS]
    )
    mask_folders = [base / name for name in (MASK_FOLDERS[:1] if parts else MASK_FOLDERS)]
    known = ("train", "test", TWINS, *MASK_FOLDERS)
    others = [folder.name for folder in _folders(base) if folder.name not in known]
    unread = f" (not read: {listed(others)})" if parts and others else ""
    pictures, read = [], set()
    for part, folder in folders:
        if part == "train" and folder.name != GOOD:
            findings.problems.append(f"{folder}: defects in train/; move them to {base / 'test' / folder.name}")
            continue
        if not fits(folder.name):
            findings.problems.append(f"{folder}: unfit as the name of a defect type; {_advice(folder.name)}")
        files = _files(folder, findings)
        beside = [] if part else [file for file in files if file.stem.endswith("_mask")]
        shown = [file for file in files if file not in beside]
        masks = list(beside)
        for mask_folder in mask_folders:
            if part != "train" and (mask_folder / folder.name).is_dir():
                masks += _files(mask_folder / folder.name, findings)
                read.add(mask_folder / folder.name)
        if not shown:
            findings.warnings.append(f"{folder}: no picture in it; nothing is read from this folder")
        if folder.name != GOOD and len(shown) > 1 and not masks:  # one line instead of one for each picture
            places = " or ".join(str(place / folder.name) for place in mask_folders)
            findings.problems.append(
                f"{folder}: {len(shown)} defect pictures and not one mask; add masks to {places}, named like "
                f"{shown[0].stem}_mask.png, or move the pictures to the good ones{unread}"
            )
            pictures += [Picture(folder.name, part, file, None) for file in shown]
            continue
        pictures += _paired(part, folder, shown, masks, findings)
    for mask_folder in mask_folders:
        for folder in _folders(mask_folder) if mask_folder.is_dir() else []:
            if folder not in read:
                _paired(
                    "",
                    base / "test" / folder.name if parts else base / folder.name,
                    [],
                    _files(folder, findings),
                    findings,
                )
    return pictures


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
        table = _read_table(root / dataset.group_table, dataset.group_column, findings)
        if table and not any(name in table for name in names.values()):
            findings.problems.append(
                f"{source}: no row for any picture; the column 'path' must hold paths relative to "
                f"{root}, such as {next(iter(names.values()), 'category/good/1.png')}"
            )
        found = {key: table.get(name, "") for key, name in names.items()}
    elif dataset.group_pattern is not None:
        source = f"dataset.group_pattern {dataset.group_pattern!r}"
        try:
            pattern = re.compile(dataset.group_pattern)
        except re.error as error:
            findings.problems.append(f"{source}: no regular expression: {error}")
            return {}
        if not pattern.groups:
            findings.problems.append(f"{source}: has no group; put parentheses around what names the capture group")
            return {}
        found = {key: (match[1] or "") if (match := pattern.search(name)) else "" for key, name in names.items()}
        if found and not any(found.values()):
            findings.problems.append(f"{source}: matches no picture, such as {next(iter(names.values()))}")
    else:
        return {key: key for key in names}
    if missing := [names[key] for key, group in found.items() if not group]:
        findings.warnings.append(
            f"{source}: no group for {len(missing)} of {len(names)} pictures, each of which "
            f"becomes a group of its own: {listed(missing)}"
        )
    return {key: group or key for key, group in found.items()}


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
    """The visible pictures in a folder, in natural order; a dangling link counts, so that it is found unreadable."""
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: natural_key(e.name))
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    if ignored := [entry.name for entry in entries if entry not in files]:
        findings.warnings.append(f"{folder}: not read, since no {', '.join(SUFFIXES)} file: {listed(ignored)}")
    return files


def _paired(part: str, folder: Path, files: list[Path], masks: list[Path], findings: Findings) -> list[Picture]:
    """The pictures of one folder, each with the mask of its name; notes what has no counterpart or an unfit name."""
    defect_type = folder.name
    by_stem = {file.stem: file for file in files}
    mask_of: dict[Path, Path] = {}
    if defect_type == GOOD and masks:
        findings.warnings.append(f"{masks[0].parent}: {len(masks)} masks of good pictures are ignored")
        masks = []
    for mask in masks:
        file = by_stem.get(mask.stem) or by_stem.get(mask.stem.removesuffix("_mask"))
        if file is None:
            findings.problems.append(
                f"{mask}: a mask without a picture; add {mask.stem.removesuffix('_mask')}.png "
                f"(or .jpg, ...) to {folder} or remove the mask"
            )
        elif file in mask_of:
            findings.problems.append(f"{mask}: a second mask of {file}, beside {mask_of[file]}; remove one of them")
        else:
            mask_of[file] = mask
    for file in files:
        if not FILE_NAME.fullmatch(file.name):
            findings.problems.append(f"{folder}: unfit as a file name: {file.name!r}; {_advice(file.stem)}")
        if defect_type != GOOD and file not in mask_of:
            findings.problems.append(
                f"{file}: a defect picture without a mask; add a mask named {file.stem}_mask.png, "
                f"or move the picture to the good ones"
            )
    twins = folder.parents[1] / TWINS / defect_type
    has_twins = part == "test" and defect_type != GOOD and twins.is_dir()
    twin_of = {file: twins / file.name for file in files if has_twins and (twins / file.name).exists()}
    return [Picture(defect_type, part, file, mask_of.get(file), twin_of.get(file)) for file in files]


def _advice(name: str) -> str:
    """How to rename what has an unfit name."""
    better = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-") or "a_name"
    return f"use only letters, digits, _ and -, and no - or . at the start: rename it to, say, {better}"
