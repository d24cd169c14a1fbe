"""Layouts: what the folders name is read whole, in the order of people, and what does not fit together is told."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.params import Dataset
from lib.dataset.findings import DatasetProblems, Findings, natural_key
from lib.dataset.groups import read_groups
from lib.dataset.layouts import categories_of
from lib.dataset.pictures import Picture
from tests.reading import read_category


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root: Path) -> tuple[list[Picture], Findings]:
    findings = Findings()
    return read_category(root, "nut", findings), findings


def dataset(root: Path, **groups: str) -> Dataset:
    nothing = {"group_table": None, "group_column": None, "group_pattern": None}
    return Dataset.model_validate({"path": str(root), "categories": ["nut"], "depth": "auto", **nothing, **groups})


def grouped(root: Path, **groups: str) -> tuple[dict[str, str], Findings]:
    findings = Findings()
    return read_groups(dataset(root, **groups), read_category(root, "nut", findings), findings), findings


def test_an_mvtec_category_is_read_with_its_masks_and_nothing_beside_train_test_and_ground_truth(tmp_path):
    touch(tmp_path / "nut", "train/good/000.png", "test/good/000.jpg", "test/crack/000.jpg", "test/crack/001.png")
    touch(tmp_path / "nut", "ground_truth/crack/000_mask.png", "ground_truth/crack/001.png")
    touch(tmp_path / "nut", "twins/crack/000.png", "license.txt", "test/crack/.DS_Store", ".cache/good/000.png")
    pictures, findings = read(tmp_path)
    assert [picture.id for picture in pictures] == [
        "good-train-000",
        "crack-test-000",
        "crack-test-001",
        "good-test-000",
    ]
    assert [picture.mask.name for picture in pictures if picture.mask] == ["000_mask.png", "001.png"]
    assert [picture.id for picture in pictures if picture.twin] == [], "a twin has its picture's whole name"
    assert findings == Findings()


def test_twins_are_those_of_defects_in_test(tmp_path):
    touch(tmp_path / "nut", "train/good/0.png", "test/good/0.png", "test/crack/0.png", "test/crack/1.png")
    touch(tmp_path / "nut", "ground_truth/crack/0.png", "ground_truth/crack/1.png")
    touch(tmp_path / "nut", "twins/good/0.png", "twins/crack/1.png", "twins/crack/7.png")
    pictures, findings = read(tmp_path)
    assert {picture.id: picture.twin for picture in pictures if picture.twin} == {
        "crack-test-1": tmp_path / "nut/twins/crack/1.png"
    }
    assert findings == Findings()


@pytest.mark.parametrize("mask", ["masks/crack/1.png", "ground_truth/crack/1_mask.png", "crack/1_mask.png"])
def test_plain_folders_are_read_with_masks_in_any_of_their_places(tmp_path, mask):
    touch(tmp_path / "nut", "good/1.png", "crack/1.bmp", mask)
    pictures, findings = read(tmp_path)
    assert [(picture.id, picture.mask) for picture in pictures] == [
        ("crack-1", tmp_path / "nut" / mask),
        ("good-1", None),
    ]
    assert findings == Findings()


def test_pictures_come_in_natural_order(tmp_path):
    touch(tmp_path / "nut", *(f"good/shot{number}.png" for number in (10, 9, 100, 1)))
    assert [picture.path.stem for picture in read(tmp_path)[0]] == ["shot1", "shot9", "shot10", "shot100"]


@settings(max_examples=50)
@given(st.lists(st.text(alphabet="0129²٣ab-. ", max_size=6), max_size=8))
def test_any_names_can_be_sorted_in_one_way_only(names):
    backwards = names[::-1]
    assert sorted(backwards, key=natural_key) == sorted(names, key=natural_key)


def test_pictures_and_masks_without_each_other_are_all_told_with_what_to_do(tmp_path):
    touch(tmp_path / "nut", "train/good/0.png", "test/crack/1.png", "test/crack/4.png")
    touch(tmp_path / "nut", "ground_truth/crack/2_mask.png", "ground_truth/dent/3.png")
    touch(tmp_path / "nut", "ground_truth/crack/4.png", "ground_truth/crack/4_mask.png")
    problems = "\n".join(read(tmp_path)[1].problems)
    assert "test/crack/1.png: a defect picture without a mask; add a mask named 1_mask.png" in problems
    assert "ground_truth/crack/2_mask.png: a mask without a picture; add 2.png" in problems
    assert "ground_truth/dent/3.png: a mask without a picture" in problems
    assert "ground_truth/crack/4_mask.png: a second mask of" in problems


def test_any_names_are_read_and_ids_have_ones_that_resemble_them(tmp_path):
    touch(tmp_path / "nut", "good/my shot (1).png", "good/my_shot_1.png", "good/ok.1_b-2.png", "Großer Riß/-rf.png")
    touch(tmp_path / "nut", "masks/Großer Riß/-rf_mask.png")
    pictures, findings = read(tmp_path)
    ids = {one.path.name: one.id for one in pictures}
    assert ids == {
        "my shot (1).png": "good-my_shot_1_2",
        "my_shot_1.png": "good-my_shot_1",
        "ok.1_b-2.png": "good-ok.1_b-2",
        "-rf.png": "Grosser_Riss-rf",
    }
    assert not findings.problems and all(one.mask for one in pictures if one.defect_type != "good")
    told = "\n".join(findings.warnings)
    assert "2 picture(s) have names unfit for an id:" in told and "'my shot (1).png' is my_shot_1_2" in told
    assert "1 defect type(s) have names unfit for a path: 'Großer Riß' is Grosser_Riss" in told


@pytest.mark.parametrize("name", ["scratch_", "b-", "x" * 64, "Crack"])
def test_names_that_fit_stay_as_they_are(tmp_path, name: str):
    touch(tmp_path / "nut", f"{name}/0.png", f"{name}/0_mask.png", "crack/1.png", "crack/1_mask.png", "b -/2.png")
    ids = {one.path.name: one.id for one in read(tmp_path)[0]}
    assert ids["0.png"] == f"{name}-0" and ids["1.png"] == "crack-1" and ids["2.png"] == "b-2"


@pytest.mark.parametrize("folder", ["twins/crack", "raw/good", "backup/old"])
def test_other_folders_of_folders_are_not_read(tmp_path, folder: str):
    touch(tmp_path / "nut", "good/0.png", "crack/1.png", "crack/1_mask.png", f"{folder}/2.png")
    pictures, findings = read(tmp_path)
    assert {one.id for one in pictures} == {"good-0", "crack-1"} and not findings.problems
    assert any(folder.split("/")[0] in told for told in findings.warnings)


def test_twins_and_masks_of_types_with_odd_names_are_found(tmp_path):
    touch(tmp_path / "nut", "train/good/0.png", "test/big crack/1.png", "ground_truth/big crack/1_mask.png")
    touch(tmp_path / "nut", "twins/big crack/1.png")
    [defect] = [one for one in read(tmp_path)[0] if one.defect_type != "good"]
    assert defect.defect_type == "big_crack" and defect.mask and defect.twin


@pytest.mark.parametrize("masks", ["masks/NG/crack", "masks/crack", "NG/masks/crack", "NG/crack"])
def test_folders_of_types_may_lie_in_one_of_their_own(tmp_path, masks: str):
    touch(tmp_path / "nut", "OK/0.png", "NG/crack/1.jpg", "NG/dent/2.jpg", "NG/dent/2_mask.png", f"{masks}/1_mask.png")
    pictures, findings = read(tmp_path)
    assert {one.id for one in pictures} == {"good-0", "crack-1", "dent-2"} and findings == Findings()
    assert {one.mask.name for one in pictures if one.mask} == {"1_mask.png", "2_mask.png"}


def test_defects_in_the_training_folder_are_a_problem(tmp_path):
    touch(tmp_path / "nut", "train/crack/1.png")
    assert "train/crack: defects in train/; move them to" in read(tmp_path)[1].problems[0]


def test_files_that_nothing_reads_are_named_in_a_warning(tmp_path):
    touch(tmp_path / "nut", "good/1.png", "good/2.webp", "good/deeper/3.png", "masks/good/1.png")
    (tmp_path / "nut/empty").mkdir()
    warnings = "\n".join(read(tmp_path)[1].warnings)
    assert "2.webp, deeper" in warnings and "masks of good pictures are ignored" in warnings
    assert "empty: no picture in it" in warnings


def test_pictures_that_lie_where_nothing_reads_are_named(tmp_path):
    touch(tmp_path / "nut", "train/good/1.png", "test/good/2.png", "a.png", "train/b.png", "validation/good/c.png")
    warnings = "\n".join(read(tmp_path)[1].warnings)
    assert "nut: not read: 1 picture(s) that lie in no folder of a type: a.png" in warnings
    assert "train: not read: 1 picture(s)" in warnings and "the folder(s) validation" in warnings


@pytest.mark.parametrize("category", ["bolt", "../nut", "a b", ""])
def test_a_category_that_is_not_there_is_told_with_what_is(tmp_path, category):
    touch(tmp_path / "nut", "good/1.png")
    with pytest.raises(DatasetProblems, match=r"bolt: this folder is missing.*holds: nut|no name of at most"):
        read_category(tmp_path, category, Findings())


@pytest.mark.parametrize("root, content", [("empty", "no folders"), ("gone", "nothing, it is missing too")])
def test_a_data_set_without_any_category_is_told_as_such(tmp_path, root, content):
    touch(tmp_path / "empty", "note.txt")
    with pytest.raises(DatasetProblems, match=f"bolt: this folder is missing; .*{root} holds: {content};"):
        read_category(tmp_path / root, "bolt", Findings())


def test_without_a_source_of_groups_every_picture_is_its_own(tmp_path):
    touch(tmp_path / "nut", "good/1.png", "good/2.png")
    assert grouped(tmp_path)[0] == {"good-1": "good-1", "good-2": "good-2"}


def test_groups_come_from_a_table_and_missing_ones_are_warned_of(tmp_path):
    touch(tmp_path / "nut", "good/1.png", "good/2.png", "good/3.png", "good/4.png")
    rows = "path,tile\nnut/good/1.png,7\n./nut/good/2.png,7\nnut\\good\\3.png, \n"
    (tmp_path / "sources.csv").write_text(rows, encoding="utf-8-sig")
    groups, findings = grouped(tmp_path, group_table="sources.csv", group_column="tile")
    assert groups == {"good-1": "7", "good-2": "7", "good-3": "good-3", "good-4": "good-4"}
    assert "no group for 2 of 4 pictures" in findings.warnings[0] and not findings.problems


def test_groups_come_from_a_pattern_found_in_the_path(tmp_path):
    touch(tmp_path / "nut", "good/t1_a.png", "good/t1_b.png", "good/other.png")
    groups, findings = grouped(tmp_path, group_pattern=r"/(t\d+)_")
    assert groups == {"good-t1_a": "t1", "good-t1_b": "t1", "good-other": "good-other"}
    assert "nut/good/other.png" in findings.warnings[0]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "cannot be read as text"),
        (b"path|tile\n", "no column 'path', 'tile'; the columns are path|tile"),
        (b"", "no column 'path', 'tile'"),
        (b"path,tile\nelse.png,1\n", "no row for any picture"),
        (b"path,tile\nnut/good/1.png,1\nnut/good/1.png,2\n", "line 3: nut/good/1.png is in two groups, '1' and '2'"),
        (b"path,tile\n\xff\xfe,1\n", "cannot be read as text in UTF-8"),
    ],
)
def test_an_unfit_group_table_is_a_problem_that_names_it(tmp_path, table, said):
    touch(tmp_path / "nut", "good/1.png")
    if table is not None:
        (tmp_path / "sources.csv").write_bytes(table)
    problems = "\n".join(grouped(tmp_path, group_table="sources.csv", group_column="tile")[1].problems)
    assert "sources.csv" in problems and said in problems


@pytest.mark.parametrize(
    ("pattern", "said"), [("(", "no regular expression"), (r"\d", "has no group"), ("(x)", "matches no picture")]
)
def test_an_unfit_group_pattern_is_a_problem_that_shows_it(tmp_path, pattern, said):
    touch(tmp_path / "nut", "good/1.png")
    assert said in grouped(tmp_path, group_pattern=pattern)[1].problems[0]


def test_the_folder_of_visas_tables_is_no_category(tmp_path):
    touch(tmp_path, *(f"{nut}/Data/Images/Normal/1.jpg" for nut in ("candle", "cashew")), "split_csv/1cls.csv")
    assert categories_of(tmp_path) == ["candle", "cashew"]
    touch(tmp_path / "other", "split_csv/good/1.png", "nut/good/1.png")
    assert categories_of(tmp_path / "other") == ["nut", "split_csv"]


def test_folders_of_words_for_good_hold_good_pictures(tmp_path):
    touch(tmp_path / "set", "OK/1.png", "NG/2.png", "masks/NG/2.png")
    assert categories_of(tmp_path / "set") == ["set"]
    pictures = read_category(tmp_path / "set", "set", findings := Findings())
    assert [one.id for one in pictures] == ["NG-2", "good-1"] and findings == Findings()
    touch(tmp_path, "nut/train/Normal/1.png", "nut/test/OK/2.png", "nut/test/NG/3.png", "nut/ground_truth/NG/3.png")
    pictures, findings = read(tmp_path)
    assert [one.id for one in pictures] == ["good-train-1", "NG-test-3", "good-test-2"] and findings == Findings()
