"""Tables that people write: what a spreadsheet saves is read, and whatever is no table is told with its line."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core import forms
from lib.core.errors import UserError
from lib.core.forms import REQUESTS, REVIEW, Form, Row, read_form, refuse

COLUMNS = ("name", "note")


def table(folder: Path, data: str | bytes) -> Form:
    (folder / "table.csv").write_bytes(data.encode() if isinstance(data, str) else data)
    return Form(folder / "table.csv", COLUMNS)


def test_no_table_has_no_rows_and_so_has_an_empty_one(tmp_path: Path):
    assert read_form(Form(tmp_path / "table.csv", COLUMNS)) == ([], [])
    assert read_form(Form(tmp_path / "nowhere" / "table.csv", COLUMNS)) == ([], [])
    assert read_form(table(tmp_path, "")) == ([], [])
    assert read_form(table(tmp_path, "name,note\n")) == ([], [])


def test_rows_come_with_their_lines_whatever_the_order_of_columns_and_the_line_ends(tmp_path: Path):
    text = '\ufeffnote, name\r\n"two\r\nlines, one field", a \r\n\r\n,b\r\n'
    rows, problems = read_form(table(tmp_path, text))
    assert problems == []
    assert rows == [Row(2, {"name": "a", "note": "two\r\nlines, one field"}), Row(5, {"name": "b", "note": ""})]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.text("aZ,\"'=+-@ \u2028\x0b;", max_size=6), st.text("b\n\r", max_size=3)), max_size=4))
def test_any_text_that_is_written_as_csv_is_read_again(tmp_path_factory: pytest.TempPathFactory, fields: list):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *fields])
    folder = tmp_path_factory.getbasetemp() / "any-csv"
    folder.mkdir(exist_ok=True)
    rows, problems = read_form(table(folder, text.getvalue()))
    expected = [[field.strip() for field in row] for row in fields]
    assert problems == [] and [list(row.values.values()) for row in rows] == [row for row in expected if any(row)]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("name;note\na;b\n", "table.csv, line 1: expected the columns name,note (separated by commas)"),
        ("name\na\n", "line 1: expected the columns name,note"),
        ("name,note,note\na,b,c\n", "line 1: expected the columns name,note"),
        ("name,note\na\n", "line 2: 1 fields, expected 2"),
        ("name,note\na,b,c\n", "line 2: 3 fields, expected 2"),
        ('name,note\na,"b" c\n', "line 2: no CSV"),
        ('name,note\na,b\n"c,d\n', "line 3: no CSV"),
        (b"name,note\na,\xff\n", "table.csv: not UTF-8"),
        (f"name,note\na,{'x' * 501}\n", "line 2: note too long, at most 500 characters"),
        (f"name,note\n{'x' * 16_001},b\n", "line 2: name too long, at most 16000 characters"),
    ],
)
def test_what_is_no_such_table_is_told_with_its_line(tmp_path: Path, data: str | bytes, told: str):
    rows, problems = read_form(table(tmp_path, data))
    assert any(told in problem for problem in problems), problems
    assert len(problems) == 1 and len(rows) <= 1


def test_a_table_beyond_its_bounds_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forms, "MAX_ROWS", 2)
    assert read_form(table(tmp_path, "name,note\na,\nb,\nc,\n"))[1] == [
        f"{(tmp_path / 'table.csv').as_posix()}: more than 2 rows; at most that many are read"
    ]
    monkeypatch.setattr(forms, "MAX_BYTES", 10)
    [problem] = read_form(table(tmp_path, "name,note\na,\n"))[1]
    assert "13 bytes, at most 10 are read" in problem


def test_a_second_download_beside_the_table_is_told_and_hidden_files_and_the_readme_are_not(tmp_path: Path):
    form = table(tmp_path, "name,note\n")
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "README.md").touch()
    assert read_form(form) == ([], [])
    (tmp_path / "table (1).csv").touch()
    [problem] = read_form(form)[1]
    assert "only table.csv is read, not table (1).csv" in problem


def test_a_folder_in_the_place_of_the_table_is_told(tmp_path: Path):
    (tmp_path / "table.csv").mkdir()
    [problem] = read_form(Form(tmp_path / "table.csv", COLUMNS))[1]
    assert "not a file" in problem


def test_all_problems_are_told_up_to_a_number(monkeypatch: pytest.MonkeyPatch):
    refuse([])
    monkeypatch.setattr(forms, "TOLD", 2)
    with pytest.raises(UserError) as caught:
        refuse(["a", "b", "c", "d"])
    assert str(caught.value) == "a\nb\nand 2 more"


def test_both_tables_lie_in_folders_that_git_keeps_with_a_page_that_names_their_columns():
    for form in (REVIEW, REQUESTS):
        page = (Path(__file__).parents[2] / form.path.parent / "README.md").read_text(encoding="utf-8")
        assert f"    {','.join(form.columns)}\n" in page
