"""Tables of pictures, and kinds of pictures that are missing: every problem names its line and its remedy."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import UserError
from lib.core.images import read_image
from lib.core.params import Dataset
from lib.dataset.findings import Findings
from lib.dataset.layouts import FORMATS
from lib.dataset.survey import look_at
from tests.dataset.test_inspect import inspect
from tests.dataset.test_odd_annotations import coco, pictures
from tests.reading import read_category

SOUND = ["images/p0.png,m.png,dent,train", "images/p1.png,,good,test"]


def findings_of(root: Path, lines: list[str], header: str = "picture,mask,type,part") -> Findings:
    pictures(root)
    Image.fromarray(np.eye(8) > 0).save(root / "m.png")
    (root / "list.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    findings = Findings()
    read_category(root, "nut", findings, "table")
    return findings


def test_a_sound_table_has_no_findings_even_from_a_folder_above(tmp_path):
    (tmp_path / "in").mkdir()
    assert findings_of(tmp_path / "in/../in", [*SOUND, "images/p2.png,,good,test"]) == Findings()


def test_pictures_that_no_row_names_are_one_warning(inside):
    findings = findings_of(Path("set"), ["images/p1.png,,good,test"])
    [warning], pictures = (
        findings.warnings,
        [Path("set") / name for name in ("images/p0.png", "images/p2.png", "m.png")],
    )
    assert "not read: 3 picture(s)" in warning and all(str(path) in warning for path in pictures)


def test_a_good_row_may_have_a_mask_that_marks_nothing(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "nothing.png")
    assert findings_of(tmp_path, [*SOUND, "images/p2.png,nothing.png,ok,test"]) == Findings()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["", *SOUND, "", "gone.png,,good,"], "line 6: 'gone.png': there is no such picture"),
        ([*SOUND, "../list.csv,,good,"], "line 4: '../list.csv' leads out of the data set; correct or remove it"),
        ([*SOUND, "images/p2.png,,good,holdout"], "line 4: the part 'holdout'; expected train, val or test"),
        ([*SOUND, "images/p0.png,,good,"], "line 4: p0.png is good here and has a defect in another row"),
        ([*SOUND, "images/p2.png,m.png,,"], "line 4: a mask that is not empty, and no type; name the defect's"),
        ([*SOUND, "images/p2.png,m.png,good,"], "line 4: a mask that is not empty, and the type 'good'; name the"),
        ([*SOUND, "images/p2.png,m.png,OK,"], "line 4: a mask that is not empty, and the type 'OK'; name the"),
        ([*SOUND, "x" * 5000 + ".png,,good,"], "xxx: there is no such picture in "),
        ([*SOUND, f"images/p2.png,{'x' * 5000}.png,dent,"], "xxx: there is no such picture in "),
        ([*SOUND, "../" + "x" * 5000 + ".png,,good,"], "xxx leads out of the data set"),
        ([*SOUND, "images/p2.png,,dent,"], "line 4: a defect picture without a mask"),
        ([*SOUND, '"' + "x" * 200_000 + '"'], "no CSV table: field larger than field limit"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(tmp_path, lines, said):
    [problem] = findings_of(tmp_path, lines).problems
    assert problem.startswith(str(tmp_path / "list.csv")) and said in problem


def test_a_header_too_long_for_a_table_is_a_problem(tmp_path):
    [problem] = findings_of(tmp_path, [], header="picture,type," + "x" * 200_000).problems
    assert str(tmp_path / "list.csv") in problem and "no CSV table" in problem


def test_a_table_in_another_encoding_is_named_where_folders_are_read_instead(tmp_path):
    pictures(tmp_path, "good")
    (tmp_path / "list.csv").write_bytes("picture,type\np0.png,Riß".encode("latin-1"))
    findings = Findings()
    read_category(tmp_path, "nut", findings)
    assert "list.csv: cannot be read as text in UTF-8" in findings.warnings[0]


def test_missing_kinds_are_told_in_the_words_of_the_layout(tmp_path):
    pictures(tmp_path)
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    dataset = Dataset.model_validate({"path": str(tmp_path), "categories": ["nut"], **nothing})
    (tmp_path / "a.json").write_text(coco(images=(1,)))
    assert look_at(dataset, "nut").findings.problems[0] == (
        "no good pictures; add some: pictures without annotations, and those in a folder `good`"
    )
    for path in (tmp_path / "images").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "a.json").unlink()
    (tmp_path / "train").mkdir()
    for number in range(3):
        (tmp_path / f"p{number}.png").rename(tmp_path / f"train/p{number}.png")
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"train/p{number}_GT.png")
    assert look_at(dataset, "nut").findings.problems == ["no defect pictures; add some: masks that are not black"]
    for number in range(3):
        Image.fromarray(np.eye(8) > 0).save(tmp_path / f"train/p{number}_GT.png")
    assert look_at(dataset, "nut").findings.problems == ["no good pictures; add some: pictures whose mask is black"]


def test_only_layouts_of_folders_speak_of_a_folder_good_alone():
    folders = {name for name, one in FORMATS.items() if one.goods == FORMATS["plain"].goods}
    assert folders == {"mvtec", "mvtec_3d", "mvtec_ad2", "mvtec_loco", "plain"}


@pytest.mark.parametrize("kind", ["plain", "yolo"])
def test_a_folder_that_may_not_be_read_is_a_problem_that_names_it(tmp_path, monkeypatch, kind):
    pictures(tmp_path / "nut", "good")

    def refused(folder: object = ".") -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    # Rights do not bind the user root, as whom tests may run.
    monkeypatch.setattr(*((Path, "iterdir") if kind == "plain" else (os, "scandir")), refused)
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    dataset = Dataset.model_validate({"path": str(tmp_path), "categories": ["nut"], "layout": kind, **nothing})
    [problem] = look_at(dataset, "nut").findings.problems
    assert problem == f"{tmp_path / 'nut'}: may not be read; change its rights, or move it elsewhere"


def test_a_pipe_in_the_place_of_a_picture_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: cannot be read as a picture: it is no file"):
        read_image(tmp_path / "a.png")


def test_rows_that_are_wrong_alike_are_one_problem_with_their_number_and_first_places(tmp_path):
    problems = findings_of(tmp_path, [*SOUND, *(f"gone{n}.png,,good,holdout" for n in range(20))]).problems
    assert len(problems) == 2 and all("; alike in 19 more: line 5, line 6, " in one for one in problems)
    assert problems[0].startswith(f"{tmp_path / 'list.csv'}, line 4: ") and "and 9 more" in problems[0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["p0.png,m.png,dent,train,1", "p0.png,m.png,scratch,test,1"], "is in the part 'test' here, and in 'train'"),
        (["p0.png,m.png,dent,train,1", "p0.png,m.png,scratch,,2"], "is in the group '2' here, and in '1'"),
    ],
)
def test_rows_of_one_picture_that_name_several_parts_or_groups_are_a_problem(tmp_path, rows, said):
    lines = [f"images/{row}" for row in [*rows, "p1.png,,good,testing,3", "p1.png,,ok,test,"]]
    [problem] = findings_of(tmp_path, lines, "picture,mask,type,part,group").problems
    assert "line 3: " in problem and "p0.png" in problem and said in problem


def test_whole_paths_of_another_machine_lead_to_pictures_by_their_last_pieces(tmp_path):
    lines = ["D:\\shots\\images\\p0.png,D:\\shots\\m.png,dent,", "/home/me/p1.png,,good,", "images/p2.png,,good,"]
    assert findings_of(tmp_path, lines) == Findings()


def test_a_mask_that_is_missing_is_never_the_picture_of_its_name(tmp_path):
    [problem] = findings_of(tmp_path, [*SOUND, "images/p2.png,D:\\masks\\p2.png,dent,"]).problems
    assert "line 4: " in problem and "is the picture and its mask, too" in problem


def test_the_table_that_an_export_writes_keeps_its_parts(tmp_path):
    rows = ["images/p0.png,m.png,dent,test,", "images/p1.png,,good,val,", "images/p2.png,m.png,dent,perlin,perlin"]
    assert findings_of(tmp_path, rows, "image,mask,defect_type,subset,generator") == Findings()
    pictures = read_category(tmp_path, "nut", Findings(), "table")
    assert [one.folder for one in pictures] == ["test", "val", "train"]


def test_a_table_that_cannot_be_read_is_told_once_for_all_folders(tmp_path):
    for name in ("a", "b"):
        pictures(tmp_path / "set" / name, ".", 1)
    (tmp_path / "set/list.csv").write_bytes("picture,type\np0.png,Ri\u00df".encode("cp1252"))
    done = inspect("set", folder=tmp_path)
    assert done.returncode == 1 and done.stdout.count("list.csv: cannot be read as text in UTF-8") == 1
