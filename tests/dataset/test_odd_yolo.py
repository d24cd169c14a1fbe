"""YOLO of odd kinds: lines that are no triangles, classes without a name, endings in upper case."""

from pathlib import Path

import pytest

from lib.dataset.annotations import Polygon, Rectangle
from lib.dataset.findings import Findings
from lib.dataset.pictures import Picture
from tests.dataset.test_odd_annotations import pictures
from tests.reading import read_category

BOX = "0 0.5 0.5 0.4 0.4"
NAMES = "names: [dent]"


def read(root: Path, *lines: str, yaml: str = NAMES) -> tuple[list[Picture], Findings]:
    """A picture for each line, of which an empty one is a good picture."""
    pictures(root, count=len(lines))
    (root / "labels").mkdir()
    for number, line in enumerate(lines):
        (root / f"labels/p{number}.txt").write_text(line)
    if yaml:
        (root / "data.yaml").write_text(yaml)
    findings = Findings()
    return read_category(root, "nut", findings), findings


def shapes(found: list[Picture]) -> list[type]:
    return [type(region.shape) for one in found if one.annotation for region in one.annotation.regions]


def test_boxes_with_a_score_and_a_track_are_refused_with_the_remedy(tmp_path):
    _, findings = read(tmp_path, f"{BOX} 0.91 1", f"{BOX} 0.72 0", "")
    [problem] = findings.problems
    assert "a box, a score and a whole number" in problem and "save them as `class x y width height`" in problem


def test_boxes_with_a_keypoint_are_never_triangles_in_silence(tmp_path):
    found, findings = read(tmp_path, f"{BOX} 0.51 0.48", f"{BOX} 0.45 0.52")
    [warning] = findings.warnings
    assert not findings.problems and "read as triangles" in warning and {*shapes(found)} == {Polygon}


@pytest.mark.parametrize("shape", ["[1, 2]", "[2, 3]"])
def test_of_poses_the_boxes_are_read(tmp_path, shape):
    more = " 0.5 0.5" if shape == "[1, 2]" else " 0.5 0.5 2 0.4 0.4 1"
    found, findings = read(tmp_path, BOX + more, BOX + more, yaml=f"{NAMES}\nkpt_shape: {shape}")
    [warning] = findings.warnings
    assert {*shapes(found)} == {Rectangle} and "of labels of poses" in warning and not findings.problems


@pytest.mark.parametrize("other", [BOX, "0 0.8 0.8 0.9 0.8 0.9 0.9", "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2"])
def test_triangles_are_read_where_they_can_be_nothing_else(tmp_path, other):
    found, findings = read(tmp_path, "0 0.2 0.2 0.4 0.2 0.4 0.4", other)
    assert findings == Findings() and Polygon in shapes(found)


def test_a_blank_line_in_a_list_of_classes_keeps_its_number(tmp_path):
    (tmp_path / "classes.txt").write_text("\nscratch\n\ndent\n\n")
    found, findings = read(tmp_path, BOX.replace("0 ", "3 ", 1), BOX.replace("0 ", "1 ", 1), yaml="")
    assert {one.defect_type for one in found} == {"dent", "scratch"} and findings == Findings()


@pytest.mark.parametrize("names", ["[dent]", "{0: dent}", "[dent, null, '']"])
def test_classes_without_a_name_are_a_warning(tmp_path, names):
    found, findings = read(tmp_path, BOX, BOX.replace("0 ", "2 ", 1), yaml=f"names: {names}")
    assert {one.defect_type for one in found} == {"dent", "class_2"}
    [warning] = findings.warnings
    assert "1 class(es) have no name: class_2 (1 line(s))" in warning


def test_labels_are_seen_whatever_the_case_of_their_ending(tmp_path):
    read(tmp_path, BOX, BOX, "")
    for path in sorted((tmp_path / "labels").iterdir()):
        path.rename(path.with_suffix(".TXT"))
    findings = Findings()
    found = read_category(tmp_path, "nut", findings)
    assert [one.defect_type for one in found] == ["dent", "dent", "good"] and findings == Findings()
    (tmp_path / "labels/p7.Txt").write_text(BOX)
    read_category(tmp_path, "nut", findings)
    assert "1 file(s) of labels without a picture" in findings.problems[0] and "p7.Txt" in findings.problems[0]


@pytest.mark.parametrize(
    ("of_pictures", "of_labels"), [("Images", "Labels"), ("images", "LABELS"), ("IMAGES", "labels")]
)
def test_the_folders_of_pictures_and_labels_may_be_in_upper_case(tmp_path, of_pictures, of_labels):
    plain, findings = read(tmp_path, BOX, BOX, "")
    (tmp_path / "images").rename(tmp_path / of_pictures)
    (tmp_path / "labels").rename(tmp_path / of_labels)
    found = read_category(tmp_path, "nut", findings)
    assert [one.types for one in found] == [one.types for one in plain] and findings == Findings()


def test_lists_of_classes_that_disagree_are_a_problem_and_alike_ones_none(tmp_path):
    """labelImg writes one into each folder, in the order in which types were met there."""
    for folder, names in (("monday", "scratch\ndent\n"), ("tuesday", "dent\nscratch\n")):
        pictures(tmp_path / folder, count=2)
        (tmp_path / folder / "labels").mkdir()
        for number in range(2):
            (tmp_path / folder / f"labels/p{number}.txt").write_text(f"{number} 0.5 0.5 0.4 0.4")
        (tmp_path / folder / "labels/classes.txt").write_text(names)
    findings = Findings()
    read_category(tmp_path, "nut", findings)
    [problem] = findings.problems
    assert (
        "tuesday/labels/classes.txt: class 0 is 'dent', in " in problem
        and "monday/labels/classes.txt it is 'scratch'" in problem
    )
    (tmp_path / "tuesday/labels/classes.txt").write_text("Scratch\ndent\n")
    findings = Findings()
    read_category(tmp_path, "nut", findings)
    assert findings.problems == []
