"""The two tables that people fill in, by hand or on the report's page: read strictly, each problem with its line.

They are versioned in Git: `data/review/README.md` and `data/requests/README.md` describe their formats.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lib.core.errors import UserError

MAX_BYTES = 4_000_000  # of a table, which the report's page includes
MAX_ROWS = 20_000
MAX_FIELD = 16_000  # characters: enough for a drawn shape of a thousand points
MAX_NOTE = 500  # characters
TOLD = 40  # problems in one message


class Form(NamedTuple):
    """A table and its columns; `beside`: other files that may be in its folder."""

    path: Path
    columns: tuple[str, ...]
    beside: tuple[str, ...] = ("README.md",)


class Row(NamedTuple):
    """One row of a table: its line number, from 1 on, and its fields by column, without surrounding spaces."""

    line: int
    values: dict[str, str]


# Verdicts on samples: the digest of the picture as it was painted identifies the sample.
REVIEW = Form(
    Path("data/review/review.csv"),
    ("category", "generator", "placement", "sha256", "verdict", "note"),
    ("README.md", "masks"),
)
# Requested defects: which type, where on which good picture, how many.
REQUESTS = Form(Path("data/requests/requests.csv"), ("category", "picture", "type", "box", "polygon", "count", "note"))


def read_form(form: Form) -> tuple[list[Row], list[str]]:
    """The valid rows, and the problems of the others or of the whole table; a missing table has no rows.

    A table is CSV (RFC 4180) in UTF-8, with or without byte order mark; its first line names all columns, in any order.
    Empty lines are ignored.
    """
    path = form.path
    if strange := _strange(form):
        return [], [
            f"{path.parent.as_posix()}: only {path.name} is read, not {', '.join(strange)}: rename or remove it"
        ]
    if not path.exists():
        return [], []
    if not path.is_file():
        return [], [f"{path.as_posix()}: not a file, but the place of a table: move it"]
    if (size := path.stat().st_size) > MAX_BYTES:
        return [], [f"{path.as_posix()}: {size:,} bytes, at most {MAX_BYTES:,} are read"]
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [f"{path.as_posix()}: not UTF-8 ({error}): save it as CSV in UTF-8"]
    return _rows(form, text)


def _strange(form: Form) -> list[str]:
    """Files in the folder of a table that are not read, such as a second download, except hidden ones."""
    form_files = {form.path.name, *form.beside}
    names = (place.name for place in form.path.parent.glob("*"))
    return sorted(name for name in names if name not in form_files and not name.startswith("."))


def _rows(form: Form, text: str) -> tuple[list[Row], list[str]]:
    rows, problems = list[Row](), list[str]()
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    where, header, line = form.path.as_posix(), list[str](), 1
    try:
        for fields in reader:
            first, line = line, reader.line_num + 1
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            if not header:
                header = fields
                if sorted(header) != sorted(form.columns):
                    reason = f"the columns {','.join(form.columns)} (separated by commas), not {fields}"
                    return [], [f"{where}, line {first}: expected {reason}"]
            elif len(fields) != len(header):
                problems.append(f"{where}, line {first}: {len(fields)} fields, expected {len(header)}")
            elif long := [name for name, field in zip(header, fields, strict=True) if len(field) > _most(name)]:
                problems.append(
                    f"{where}, line {first}: {', '.join(long)} too long, at most {_most(long[0])} characters"
                )
            else:
                rows.append(Row(first, dict(zip(header, fields, strict=True))))
            if len(rows) > MAX_ROWS:
                return [], [f"{where}: more than {MAX_ROWS:,} rows; at most that many are read"]
    except csv.Error as error:
        problems.append(f"{where}, line {line}: no CSV ({error}): double the quotes within a quoted field")
    return rows, problems


def _most(column: str) -> int:
    return MAX_NOTE if column == "note" else MAX_FIELD


def refuse(problems: Sequence[str]) -> None:
    """Raise UserError with all problems, a line for each, if there are any."""
    if problems:
        rest = [f"and {len(problems) - TOLD} more"] if len(problems) > TOLD else []
        raise UserError("\n".join([*problems[:TOLD], *rest]))
