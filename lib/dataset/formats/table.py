"""A CSV of pictures, masks and types, with a header: `picture,mask,type`, and perhaps `part` and `group`.

Paths are relative to the table. Rows of type `good` have no mask, or one that marks nothing; several rows of one
picture are several defects.
"""

import csv
import os
from collections import defaultdict
from pathlib import Path

from lib.core.errors import UserError
from lib.core.images import SUFFIXES, read_mask
from lib.core.records import GOOD
from lib.dataset.album import note_unread
from lib.dataset.annotations import Annotation, MaskFile, Region
from lib.dataset.findings import Findings
from lib.dataset.pictures import PARTS, Picture, TypeNames, is_good, picture_names, type_of
from lib.dataset.reading import read_text

GOODS, DEFECTS = "rows of the type `good`, without a mask", "rows of other types, with a mask"
COLUMNS = {
    "picture": ("picture", "image", "path", "file", "filename"),
    "mask": ("mask", "mask_path"),
    "type": ("type", "defect_type", "label", "class"),
    "part": ("part", "split"),
    "group": ("group", "capture_group"),
}

Row = dict[str, str]


def recognises(base: Path) -> str | None:
    """Why the folder is taken for a table of pictures, or None."""
    for path in sorted(base.glob("*.csv")):
        try:
            if rows := _rows(path):
                return f"{path.name} has columns of pictures and types ({len(rows)} rows)"
        except UserError:
            continue
    return None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the tables name; adds to the findings what is wrong with any row."""
    rows_of: dict[Path, list[Row]] = defaultdict(list)
    types = TypeNames()
    for table in sorted(base.glob("*.csv")):
        try:
            rows = _rows(table)
        except UserError as error:
            findings.problems.append(str(error))
            continue
        for row in rows or ():
            try:
                mask = str(_inside(base, row["mask"])) if row["mask"] else ""
                rows_of[_inside(base, row["picture"])].append(row | {"mask": mask})
            except UserError as error:
                findings.problems.append(f"{row['from']}: {error}; correct or remove it")
            if row["part"] and row["part"].lower() not in PARTS:
                findings.problems.append(f"{row['from']}: the part {row['part']!r:.80}; expected train, val or test")
    names = picture_names(rows_of, base)
    pictures = []
    for path, rows in rows_of.items():
        defects = [row for row in rows if row["type"] and not is_good(row["type"])]
        if defects and len(defects) < len(rows):
            good = next(row["from"] for row in rows if row not in defects)
            findings.problems.append(f"{good}: {path.name} is good here and has a defect in another row; remove one")
        for row in rows:
            if row["mask"] and row not in defects and _marks(Path(row["mask"])):
                said = f"the type {row['type']!r:.80}" if row["type"] else "no type"
                findings.problems.append(
                    f"{row['from']}: a mask that is not empty, and {said}; name the defect's type, or remove the mask"
                )
        for row in defects:
            if not row["mask"]:
                findings.problems.append(
                    f"{row['from']}: a defect picture without a mask; add its path, or the type {GOOD}"
                )
        regions = tuple(Region(types(row["type"]), MaskFile(Path(row["mask"]))) for row in defects if row["mask"])
        whole = len(regions) == 1  # the file itself is the mask
        pictures.append(
            Picture(
                type_of(regions) if regions or not defects else types(defects[0]["type"]),
                PARTS.get(rows[0]["part"].lower(), ""),
                path,
                Path(defects[0]["mask"]) if whole else None,
                annotation=Annotation(path, regions) if regions and not whole else None,
                group=rows[0]["group"] or None,
                name=names[path] if names[path] != path.stem else None,
            )
        )
    types.warn(findings)
    note_unread(
        base, pictures, findings, {Path(row["mask"]) for rows in rows_of.values() for row in rows if row["mask"]}
    )
    return pictures


def _rows(path: Path) -> list[Row] | None:
    """The rows of a table, by the names of COLUMNS, "" where one is absent, and `from`, where each stands; None where
    it is no table of pictures."""
    lines = read_text(path).splitlines()
    if not lines:
        return None
    reader = csv.reader(lines, delimiter=max(",;\t", key=lines[0].count))
    try:
        header = [name.strip().lower() for name in next(reader)]
        place = {
            key: next((header.index(name) for name in names if name in header), None) for key, names in COLUMNS.items()
        }
        if place["picture"] is None or place["type"] is None:
            return None
        cells = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise UserError(f"{path}: no CSV table: {error}; save it anew") from error
    return [
        {key: row[at].strip() if at is not None and at < len(row) else "" for key, at in place.items()}
        | {"from": f"{path}, line {line}"}
        for line, row in cells
    ]


def _inside(base: Path, name: str) -> Path:
    """A path of the table. Raises UserError where it leads out of the data set, or to no picture."""
    path = base / os.path.relpath(base / name.replace("\\", "/"), base)
    if ".." in path.relative_to(base).parts:
        raise UserError(f"{name!r:.200} leads out of the data set")
    try:
        found = path.is_file() and path.suffix.lower() in SUFFIXES
    except OSError:  # a name longer than any file's
        found = False
    if not found:
        raise UserError(f"{name!r:.200}: there is no such picture in {base}")
    return path


def _marks(mask: Path) -> bool:
    """Whether a mask marks anything, or cannot be read."""
    try:
        return bool(read_mask(mask).any())
    except (OSError, UserError):
        return True
