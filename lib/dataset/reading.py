"""Read annotation files with limited sizes; errors name the file."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lib.core.errors import UserError, shortlist
from lib.dataset.findings import natural_key

MAX_BYTES = 512 * 2**20  # of a file; COCO's own for 118,000 pictures has 450 MB
DEPTH = 3  # folders below that of the data set in which annotations are looked for
LOOKED_AT = 50  # files of a kind, until a layout is recognised or not


def annotation_files(base: Path, *endings: str, depth: int = DEPTH) -> Iterator[Path]:
    """The visible files with one of these endings, such as `.json`, in natural order, those above first."""
    for level in range(depth + 1):
        files = (path for path in base.glob("/".join(["*"] * (level + 1))) if path.suffix.lower() in endings)
        visible = (path for path in files if not any(name.startswith(".") for name in path.relative_to(base).parts))
        yield from sorted((path for path in visible if path.is_file()), key=lambda path: natural_key(path.as_posix()))


def recognised(base: Path, ending: str, read: Callable[[Path], Any], fits: Callable[[Any], bool]) -> str | None:
    """The first file whose content is of a kind, relative to the folder; None where none of the first LOOKED_AT is."""
    for path, _ in zip(annotation_files(base, ending), range(LOOKED_AT), strict=False):
        try:
            if fits(read(path)):
                return path.relative_to(base).as_posix()
        except UserError:
            continue
    return None


def unreadable(base: Path, depth: int = DEPTH) -> list[str]:
    """The problems of files that may be annotations, of the first LOOKED_AT of each kind: broken files, and exports of
    known tools in an unsupported form.

    depth: of folders below `base` that are searched.
    """
    problems = []
    for ending, read in ((".json", read_json), (".xml", read_xml), (".csv", read_text)):
        for path, _ in zip(annotation_files(base, ending, depth=depth), range(LOOKED_AT), strict=False):
            try:
                if other := other_export(read(path)):
                    problems.append(f"{path}: not read, since {other}")
            except UserError as error:
                problems.append(str(error))
    return problems


def other_export(content: Any) -> str:
    """What a file is, and the remedy, if it is an export in an unsupported form; else ""."""
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "annotation_id" in first and "data" not in first:
        return "it is Label Studio's JSON-MIN; export it as JSON"
    if isinstance(content, ElementTree.Element) and content.tag == "annotations" and content.find("track") is not None:
        return "it is CVAT for video; export it as CVAT for images"
    records = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    record = next(iter(records.values()), None) if isinstance(records, dict) else None
    own_json = isinstance(record, dict) and {"filename", "regions"} <= record.keys()
    if own_json or (isinstance(content, str) and "region_shape_attributes" in content.partition("\n")[0]):
        return "it is of the VGG Image Annotator (VIA); export it as COCO"
    return ""


def passed_over(base: Path) -> list[str]:
    """Warnings, for a layout of plain folders, about files that hold, or may hold, annotations."""
    problems = unreadable(base)
    files = [str(path) for path in annotation_files(base, ".json", ".xml")]
    others = [file for file in files if not any(problem.startswith(f"{file}: ") for problem in problems)]
    if others:
        problems.append(
            f"{base}: not read, since folders tell the types here: {len(others)} file(s), {shortlist(others)}; if they "
            f"hold annotations, set dataset.layout to their format"
        )
    return problems


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError where it cannot be read, is no UTF-8, or has more than MAX_BYTES."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read; split the file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8: {error}; replace or remove the file") from error


def read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV table, and its rows that are not empty: line number, and value by column in lower case.

    Columns are separated by commas, semicolons (as Excel writes them in many countries) or tabs; values have no spaces
    around them, and are "" where a row is too short. Raises UserError for a file that is no such table in UTF-8.
    """
    lines = read_text(path).splitlines(keepends=True)
    reader = csv.reader(lines, delimiter=max(",;\t", key=lines[0].count) if lines else ",")
    try:
        columns = [name.strip() for name in next(reader, [])]
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise UserError(f"{path}: no CSV table: {error}; save it anew") from error
    places = {name.lower(): place for place, name in reversed([*enumerate(columns)])}  # the first of equal names
    return columns, [
        (line, {key: row[place] if place < len(row) else "" for key, place in places.items()}) for line, row in cells
    ]


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError where it is none."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise UserError(f"{path}: no valid JSON: {error}; replace or remove the file") from error


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises UserError where it is none, or declares a document type.

    Entities come with such a declaration, and a few lines of them can fill the memory; no annotation needs one.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{path}: XML with a document type, which is not read; remove the declaration")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: no valid XML: {error}; replace or remove the file") from error


def numbers(line: str, separators: str = " \t") -> list[float] | None:
    """The numbers of a line; None if a word is not a number."""
    for separator in separators:
        line = line.replace(separator, " ")
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return None
