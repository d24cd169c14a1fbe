"""Exports as tools really write them: moved files, uploads, parts in several files, and what is told of the others."""

import json
from pathlib import Path

import pytest

from lib.dataset.findings import Findings
from tests.dataset.test_odd_annotations import coco, findings_of, labelme, pictures, shape
from tests.reading import read_category


@pytest.mark.parametrize("layout", ["label_studio", "cvat"])
def test_an_export_in_a_form_that_is_not_read_is_told_with_the_right_one(tmp_path, layout):
    pictures(tmp_path)
    (tmp_path / "a.json").write_text('[{"image": "p0.png", "annotation_id": 1}]')
    (tmp_path / "a.xml").write_text("<annotations><track/></annotations>")
    [warning, _] = findings_of(tmp_path, layout).warnings
    assert warning.endswith("export it as JSON" if layout == "label_studio" else "export it as CVAT for images")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"points": [[1, 1], [4]]}, "a polygon whose points are no pairs of numbers: [[1, 1], [4]]"),
        ({"points": [["a", 1]] * 3}, "a polygon whose points are no pairs of numbers"),
        ({"points": [[1, 1]], "shape_type": "circle"}, "a circle of 1 point(s), expected 2"),
        ({"points": [], "shape_type": "rectangle"}, "a rectangle of 0 point(s), expected 2"),
    ],
)
def test_points_of_labelme_that_are_none_are_told_in_plain_words(tmp_path, changed, said):
    pictures(tmp_path)
    (tmp_path / "a.json").write_text(labelme(shape(**changed)))
    [problem] = findings_of(tmp_path).problems
    assert problem.startswith(f"{tmp_path / 'a.json'}: 1 annotation(s) cannot be read ({said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<filename>p0.png</filename><size><width>a</width></size>", "(size/width is no number, but 'a'): size"),
        ("<object><bndbox><xmin>1</xmin></bndbox></object>", "(bndbox/ymin is no number, but ''): object 1"),
    ],
)
def test_numbers_of_voc_that_are_none_are_told_in_plain_words(tmp_path, text, said):
    pictures(tmp_path)
    (tmp_path / "p0.xml").write_text(f"<annotation>{text}</annotation>")
    [problem] = findings_of(tmp_path).problems
    assert problem == f"{tmp_path / 'p0.xml'}: 1 annotation(s) cannot be read {said}; correct or remove them"


def test_a_picture_of_labelme_is_found_beside_its_file_where_files_were_moved(tmp_path):
    for folder in ("good", "crack"):
        pictures(tmp_path, folder, 1)
        shapes = [shape()] if folder == "crack" else []
        content = labelme(*shapes).replace("p0.png", "..\\\\bilder\\\\p0.png")
        (tmp_path / folder / "p0.json").write_text(content)
    findings = Findings()
    found = {one.path.parent.name: one.defect_type for one in read_category(tmp_path, "nut", findings)}
    assert found == {"good": "good", "crack": "dent"} and findings == Findings()


def test_uploads_of_label_studio_lead_to_files_with_blanks_and_umlauts(tmp_path):
    pictures(tmp_path, count=1)
    (tmp_path / "images/p0.png").rename(tmp_path / "images/teil 5\u00f6 (1).png")
    task = {"data": {"image": "/data/upload/1/1a2b3c4d-teil_5%C3%B6_1.png"}, "annotations": [{"result": []}]}
    (tmp_path / "a.json").write_text(json.dumps([task]))
    findings = Findings()
    [picture] = read_category(tmp_path, "nut", findings)
    assert picture.path.name == "teil 5\u00f6 (1).png" and findings == Findings()


def coco_file(root: Path, name: str, number: int = 0, **changed) -> None:
    content = json.loads(coco(images=(1,))) | changed
    content["images"][0]["file_name"] = f"p{number}.png"
    (root / name).write_text(json.dumps(content))


def test_a_picture_in_two_parts_of_coco_is_a_problem_that_names_it(tmp_path):
    pictures(tmp_path)
    coco_file(tmp_path, "instances_train.json")
    coco_file(tmp_path, "instances_test.json")
    [problem] = findings_of(tmp_path).problems
    assert "1 picture(s) are of the part " in problem and "p0.png" in problem and "keep them in one" in problem
    assert "instances_train.json" in problem and "instances_test.json" in problem


def test_a_file_of_all_pictures_beside_those_of_parts_doubles_nothing_and_undoes_no_part(tmp_path):
    pictures(tmp_path)
    for name, number in (("instances_all.json", 0), ("instances_test.json", 0), ("instances_train.json", 1)):
        coco_file(tmp_path, name, number)
    findings = Findings()
    found = read_category(tmp_path, "nut", findings)
    assert [(one.folder, len(one.annotation.regions)) for one in found if one.annotation] == [("test", 1), ("train", 1)]
    assert not findings.problems


def test_types_that_differ_in_case_alone_are_told_as_such(tmp_path):
    pictures(tmp_path)
    for number, label in enumerate(("crazing", "Crazing", "pitted surface")):
        content = labelme(shape(label=label)).replace("p0.png", f"p{number}.png")
        (tmp_path / f"p{number}.json").write_text(content)
    case, unfit = findings_of(tmp_path).warnings
    assert case.startswith("1 defect type(s) are called like another one but for upper and lower case")
    assert "'Crazing' is Crazing_2" in case and unfit.endswith("unfit for a path: 'pitted surface' is pitted_surface")
