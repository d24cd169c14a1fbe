"""A CSV of pictures, masks and types, with a header: `picture,mask,type`, and perhaps `part` and `group`.

Paths are relative to the table, or absolute; those of another machine are matched by their last components. Rows of
type `good` have no mask, or an empty one; several rows of one picture are several defects. The tables of `lib.export`
can be read: samples of generators belong to train.
"""

import os
from collections import defaultdict
from pathlib import Path, PureWindowsPath

from lib.core.errors import UserError
from lib.core.images import SUFFIXES, read_mask
from lib.core.records import GOOD
from lib.dataset.album import Album, note_unread
from lib.dataset.annotations import Annotation, MaskFile, Region
from lib.dataset.findings import Alike, Findings
from lib.dataset.pictures import PART_NAMES, TRAIN, Picture, TypeNames, is_good, picture_names, type_of
from lib.dataset.reading import read_table

GOODS, DEFECTS = "rows of the type `good`, without a mask", "rows of other types, with a mask"
COLUMNS = {
    "picture": ("picture", "image", "path", "file", "filename"),
    "mask": ("mask", "mask_path"),
    "type": ("type", "defect_type", "label", "class"),
    "part": ("part", "split", "subset"),
    "group": ("group", "capture_group"),
    "generator": ("generator",),
}

Row = dict[str, str]


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as a table of pictures, or None."""
    for path in sorted(base.glob("*.csv")):
        try:
            if rows := _rows(path):
                return f"{path.name} has columns of pictures and types ({len(rows)} rows)"
        except UserError:
            continue
    return None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures that the tables name; adds problems of rows to the findings."""
    wrong = Alike()
    rows_of = _rows_of_pictures(base, findings, wrong)
    types = TypeNames()
    names = picture_names(rows_of, base)
    pictures = []
    for path, rows in rows_of.items():
        defects = [row for row in rows if row["type"] and not is_good(row["type"])]
        _check(path, rows, defects, wrong)
        masked = [Region(types(row["type"]), MaskFile(Path(row["mask"]))) for row in defects if row["mask"]]
        regions = tuple(dict.fromkeys(masked))
        whole = len(regions) == 1  # the file itself is the mask
        shape = regions[0].shape if whole else None
        pictures.append(
            Picture(
                type_of(regions) if regions or not defects else types(defects[0]["type"]),
                next((PART_NAMES[row["part"].lower()] for row in rows if row["part"].lower() in PART_NAMES), ""),
                path,
                shape.path if isinstance(shape, MaskFile) else None,
                annotation=Annotation(path, regions) if regions and not whole else None,
                group=next((row["group"] for row in rows if row["group"]), None),
                name=names[path] if names[path] != path.stem else None,
            )
        )
    findings.problems += wrong.messages()
    types.warn(findings)
    note_unread(
        base, pictures, findings, {Path(row["mask"]) for rows in rows_of.values() for row in rows if row["mask"]}
    )
    return pictures


def _rows_of_pictures(base: Path, findings: Findings, wrong: Alike) -> dict[Path, list[Row]]:
    """The rows of each picture, their masks as paths from where the program runs."""
    album = Album(base, findings.apart)
    rows_of: dict[Path, list[Row]] = defaultdict(list)
    for table in sorted(base.glob("*.csv")):
        try:
            rows = _rows(table)
        except UserError as error:
            findings.problems.append(str(error))
            continue
        for row in rows or ():
            place = row["table"], row["line"]
            if row["generator"]:
                row["part"] = TRAIN
            try:
                mask = str(_inside(album, row["mask"])) if row["mask"] else ""
                path = _inside(album, row["picture"])
            except UserError as error:
                wrong.add(*place, "path", f"{error}; correct or remove it")
                continue
            finally:
                if row["part"] and row["part"].lower() not in PART_NAMES:
                    wrong.add(*place, "part", f"the part {row['part']!r:.80}; expected train, val or test")
            if mask == str(path):
                wrong.add(*place, "itself", f"{mask} is the picture and its mask, too; correct one of them")
                continue
            rows_of[path].append(row | {"mask": mask})
    return rows_of


def _check(path: Path, rows: list[Row], defects: list[Row], wrong: Alike) -> None:
    """Note where rows of a picture contradict each other, and what masks they lack or have in vain."""
    for row in rows:
        place, is_defect = (row["table"], row["line"]), row in defects
        if defects and not is_defect:
            wrong.add(*place, "both", f"{path.name} is good here and has a defect in another row; remove one")
        if row["mask"] and not is_defect and _marks(Path(row["mask"])):
            type_text = f"the type {row['type']!r:.80}" if row["type"] else "no type"
            text = f"a mask that is not empty, and {type_text}; name the defect's type, or remove the mask"
            wrong.add(*place, "mask", text)
        if is_defect and not row["mask"]:
            wrong.add(*place, "no mask", f"a defect picture without a mask; add its path, or the type {GOOD}")
    for key in ("part", "group"):
        with_value = [row for row in rows if row[key]]
        for row in with_value[1:]:
            first, this = (
                PART_NAMES.get(one[key].lower(), one[key]) if key == "part" else one[key]
                for one in (with_value[0], row)
            )
            if first != this:
                text = f"{path} is in the {key} {this!r:.80} here, and in {first!r:.80} in another row; keep one"
                wrong.add(row["table"], row["line"], key, text)


def _rows(path: Path) -> list[Row] | None:
    """The rows of a table, by the names of COLUMNS, "" where one is absent, and `table` and `line`, where each
    stands; None where it is no table of pictures."""
    columns, rows = read_table(path)
    header = [name.lower() for name in columns]
    called = {key: next((name for name in names if name in header), "") for key, names in COLUMNS.items()}
    if not called["picture"] or not called["type"]:
        return None
    return [
        {key: row.get(name, "") for key, name in called.items()} | {"table": str(path), "line": f"line {line}"}
        for line, row in rows
    ]


def _inside(album: Album, name: str) -> Path:
    """A path of the table; a whole path from another machine leads to a picture by its last pieces.

    Raises UserError where it leads out of the data set, or to no picture.
    """
    base = album.base
    path = base / os.path.relpath(base / name.replace("\\", "/"), base)
    leads_out = ".." in path.relative_to(base).parts
    try:
        is_picture = not leads_out and path.is_file() and path.suffix.lower() in SUFFIXES
    except OSError:  # a name longer than any file's
        is_picture = False
    if is_picture:
        return path
    if name.startswith("/") or PureWindowsPath(name).is_absolute():
        return album.find(name)
    if leads_out:
        raise UserError(f"{name!r:.200} leads out of the data set")
    raise UserError(f"{name!r:.200}: there is no such picture in {base}")


def _marks(mask: Path) -> bool:
    """Whether a mask marks anything, or cannot be read."""
    try:
        return bool(read_mask(mask).any())
    except (OSError, UserError):
        return True
