"""Annotations of odd or hostile content: each ends as a finding that names its file, and never as a traceback."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.params import Dataset, Split
from lib.core.runtime import write_json
from lib.dataset.examination import examine
from lib.dataset.findings import DatasetProblems, Findings
from lib.dataset.layouts import locate
from lib.dataset.reading import unreadable
from lib.dataset.splitting import split_categories
from lib.dataset.validation import validate
from tests.dataset.test_inspect import inspect
from tests.reading import read_category


def pictures(root: Path, folder: str = "images", count: int = 3) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(root / folder / f"p{number}.png")


def findings_of(root: Path, layout: str = "auto") -> Findings:
    findings = Findings()
    read_category(root, "nut", findings, layout)  # type: ignore[arg-type]
    return findings


def coco(images=(1, 2), categories=(1, 2)) -> str:
    return json.dumps(
        {
            "images": [{"id": number, "file_name": f"p{n}.png"} for n, number in enumerate(images)],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}],
            "categories": [{"id": number, "name": f"type{n}"} for n, number in enumerate(categories)],
        }
    )


def labelme(*shapes: dict) -> str:
    return json.dumps({"imagePath": "p0.png", "imageWidth": 8, "imageHeight": 8, "shapes": list(shapes)})


def shape(**changed) -> dict:
    return {"label": "dent", "shape_type": "polygon", "points": [[1, 1], [4, 1], [4, 4]]} | changed


def test_a_number_of_thousands_of_digits_is_no_valid_json(tmp_path):
    pictures(tmp_path)
    (tmp_path / "a.json").write_text('{"a": ' + "1" * 5000 + "}")
    [problem] = unreadable(tmp_path)
    assert str(tmp_path / "a.json") in problem and "no valid JSON" in problem
    assert problem in findings_of(tmp_path, "coco").problems


@pytest.mark.parametrize("content", [coco()[:-9].encode(), coco().encode("utf-16")])
@pytest.mark.parametrize("category", ["nut", "images"])
def test_a_file_that_cannot_be_read_beside_its_pictures_is_named(tmp_path, content, category):
    pictures(tmp_path)
    (tmp_path / "instances.json").write_bytes(content)
    with pytest.raises(DatasetProblems) as raised:
        locate(tmp_path, category)
    about, problem = raised.value.problems
    assert category in about and problem.startswith(f"{tmp_path / 'instances.json'}: ")


@pytest.mark.parametrize(("key", "ids"), [("images", (1, 1)), ("categories", (1, 1))])
def test_ids_that_coco_gives_twice_are_refused_since_masks_would_go_astray(tmp_path, key, ids):
    pictures(tmp_path)
    (tmp_path / "a.json").write_text(coco(**{key: ids}))
    [problem] = findings_of(tmp_path).problems
    assert str(tmp_path / "a.json") in problem and f"{key} of the same id, 1" in problem


def test_kinds_of_any_type_are_counted(tmp_path):
    pictures(tmp_path)
    (tmp_path / "a.json").write_text(labelme(shape(), shape(shape_type=5), shape(shape_type="line")))
    findings = findings_of(tmp_path)
    assert findings.problems == [] and "1 5, 1 line" in findings.warnings[0]


def test_a_mask_that_is_no_picture_is_told_alike_each_time(tmp_path):
    pictures(tmp_path)
    (tmp_path / "a.json").write_text(labelme(shape(shape_type="mask", mask="AAAA")))
    [problem] = findings_of(tmp_path).problems
    assert problem.startswith(
        f"{tmp_path / 'a.json'}: 1 annotation(s) cannot be read (a mask that is no PNG): shapes[0]"
    )


def test_cvats_run_lengths_that_do_not_fill_are_told_with_their_file(tmp_path):
    pictures(tmp_path)
    mask = '<mask label="a" left="0" top="0" width="4" height="4" rle="3"/>'
    (tmp_path / "a.xml").write_text(
        f'<annotations><image name="p0.png" width="8" height="8">{mask}</image></annotations>'
    )
    [problem] = findings_of(tmp_path).problems
    assert problem.startswith(f"{tmp_path / 'a.xml'}: ") and "run lengths that do not fill" in problem


def test_a_list_of_voc_in_another_encoding_is_a_problem_that_names_it(tmp_path):
    pictures(tmp_path)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    (tmp_path / "p0.xml").write_text(f"<annotation><object><name>a</name>{box}</object></annotation>")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes("für".encode("latin-1"))
    [problem] = findings_of(tmp_path).problems
    assert "train.txt: cannot be read as text in UTF-8" in problem


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "ä".encode("latin-1")),
        ("data.yaml", "names: [ä]".encode("latin-1")),
        ("data.yaml", b"[" * 3000),
        ("data.yaml", b"names: {.inf: a}"),
        ("data.yaml", b"names: {? [1] : a}"),
        ("data.yaml", b"names: [[a, b]]"),
        ("data.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nnames: {0: *b}"),
    ],
)
def test_names_of_classes_that_cannot_be_read_are_a_warning_that_names_the_file(tmp_path, name, content):
    pictures(tmp_path)
    (tmp_path / "labels").mkdir()
    for number in range(3):
        (tmp_path / f"labels/p{number}.txt").write_text("0 0.5 0.5 0.4 0.4" if number else "")
    (tmp_path / name).write_bytes(content)
    findings = findings_of(tmp_path)
    assert findings.problems == [] and str(tmp_path / name) in findings.warnings[0]


def test_yolo_is_known_by_any_file_of_labels_so_that_a_broken_one_is_told(tmp_path):
    pictures(tmp_path)
    (tmp_path / "labels").mkdir()
    for number, line in enumerate(["0 nan 0.5 0.4 0.4", "0 0.5 0.5 0.4 0.4"]):
        (tmp_path / f"labels/p{number}.txt").write_text(line)
    [problem] = findings_of(tmp_path).problems
    assert f"{tmp_path / 'labels/p0.txt'}, line 1: '0 nan 0.5 0.4 0.4'" in problem and "expected a class" in problem


@pytest.mark.parametrize("line", ["0 120 80 40 20", "dent 0.5 0.5 0.4 0.4", "0,0.5,0.5,0.4,0.4", "0 nan 0.5 0.4 0.4"])
@pytest.mark.parametrize("place", ["train/labels", "labels", "good"])  # beside folders of MVTec AD, alone, as darknet
def test_yolo_whose_labels_are_all_broken_is_refused_with_a_file_and_its_line(tmp_path, place, line):
    pictures(tmp_path / "nut", place.replace("labels", "images"), 60)
    (tmp_path / "nut" / place).mkdir(exist_ok=True)
    for number in range(52, 60):  # the first ones are good and have none
        (tmp_path / f"nut/{place}/p{number}.txt").write_text(line)
    [problem] = findings_of(tmp_path).problems
    assert problem.startswith("8 file(s) of labels hold other lines; expected a class and 4 numbers of a box")
    assert f"{tmp_path / 'nut' / place / 'p52.txt'}, line 1: {line!r}" in problem and problem.count("\n") == 0


def test_yolo_is_known_where_many_good_pictures_without_labels_come_first(tmp_path):
    pictures(tmp_path / "nut", count=60)
    (tmp_path / "nut/labels").mkdir()
    (tmp_path / "nut/labels/p59.txt").write_text("0 0.5 0.5 0.4 0.4")
    assert locate(tmp_path, "nut").layout == "yolo"


def test_labels_of_a_picture_in_a_folder_good_are_read_as_in_all_other_formats(tmp_path):
    pictures(tmp_path / "nut", "good")
    (tmp_path / "nut/good/p1.txt").write_text("0 0.5 0.5 0.4 0.4")
    kinds = [one.defect_type for one in read_category(tmp_path, "nut", Findings())]
    assert kinds == ["good", "class_0", "good"]


def test_folders_of_pictures_with_notes_are_no_yolo(tmp_path):
    pictures(tmp_path / "nut", "good")
    for number, note in enumerate(["found by Ann on the 3 4 5 6", "3 4 5 6", ""]):
        (tmp_path / f"nut/good/p{number}.txt").write_text(note)
    assert locate(tmp_path, "nut").layout == "plain"


@pytest.mark.parametrize("folders", [("train/good", "test/dent"), ("good", "dent")])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("_annotations.coco.json", coco()[:-9], "no valid JSON"),
        ("_annotations.coco.json", json.dumps({"images": [], "annotations": []}), "set dataset.layout to their format"),
        ("stray.xml", "<annotations><shape/></annotations>", "set dataset.layout to their format"),
        ("video.xml", "<annotations><track/></annotations>", "it is CVAT for video; export it as CVAT for images"),
        ("via.csv", "filename,region_count,region_shape_attributes\n", "(VIA); export it as COCO"),
        ("via.json", '{"a.png9": {"filename": "a.png", "regions": []}}', "(VIA); export it as COCO"),
        ("via_project.json", '{"_via_img_metadata": {"a.png9": {"filename": "a.png", "regions": []}}}', "as COCO"),
        ("min.json", '[{"image": "a.png", "annotation_id": 1}]', "it is Label Studio's JSON-MIN; export it as JSON"),
    ],
)
def test_annotations_that_no_layout_knows_are_named_where_folders_are_read_instead(
    tmp_path, folders, name, content, said
):
    for folder in folders:
        pictures(tmp_path / "nut", folder)
    (tmp_path / "nut" / folders[0].split("/")[0] / name).write_text(content)
    (tmp_path / "nut/masks/dent").mkdir(parents=True)
    warnings = [one for one in findings_of(tmp_path).warnings if said in one]
    assert len(warnings) == 1 and name in warnings[0]


OLD_NAME = os.fsdecode(b"images/\xe4.png")  # as archives of old systems leave it


def yolo_of_noise(root: Path) -> None:
    """Eight pictures, of which the first four show a dent."""
    pictures(root, count=0)
    (root / "labels").mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / f"images/p{number}.png")
        (root / f"labels/p{number}.txt").write_text("0 0.5 0.5 0.4 0.4" if number < 4 else "")
    (root / "data.yaml").write_text("names: [dent]")


def test_a_picture_whose_name_is_no_utf8_is_a_problem_and_can_be_told_on_any_console(tmp_path):
    yolo_of_noise(tmp_path / "set")
    shutil.copy(tmp_path / "set/images/p0.png", tmp_path / "set" / OLD_NAME)
    done = inspect("set", folder=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    assert r"\udce4.png': a name that is no UTF-8, as all records are; rename it" in done.stdout


def test_a_warning_of_such_a_name_can_be_written(tmp_path):
    yolo_of_noise(tmp_path / "data")
    (tmp_path / "data/other").mkdir()
    shutil.copy(tmp_path / "data/images/p0.png", tmp_path / "data/other" / Path(OLD_NAME).name)
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    dataset = Dataset.model_validate({"path": str(tmp_path / "data"), "categories": ["nut"], **nothing})
    splits, _, _ = split_categories(dataset, Split(rule="first_third", shots=6, val_fraction=0.34))
    write_json(tmp_path / "split.json", splits["nut"][1])
    assert r"\\udce4.png" in (tmp_path / "split.json").read_text()


def test_the_folder_of_a_data_set_may_be_named_by_a_detour(tmp_path):
    pictures(tmp_path / "data")
    (tmp_path / "data/json").mkdir()
    (tmp_path / "data/json/a.json").write_text(labelme(shape()).replace("p0.png", "../images/p0.png"))
    assert findings_of(tmp_path / "data/../data").problems == []


def test_of_several_labels_of_one_region_the_first_counts_and_the_others_are_counted(tmp_path):
    pictures(tmp_path)
    value = {"x": 10, "y": 10, "width": 30, "height": 30, "rectanglelabels": ["dent", "scratch"]}
    result = {"original_width": 8, "original_height": 8, "value": value}
    (tmp_path / "a.json").write_text(
        json.dumps([{"data": {"image": "p0.png"}, "annotations": [{"result": [result] * 2}]}])
    )
    findings = Findings()
    [picture] = read_category(tmp_path, "nut", findings)
    assert picture.types == ("dent",) and "2 further label(s) of one area" in findings.warnings[0]


@pytest.mark.parametrize("stroke", [10**12, "abc", [0] * 10_000, [300]])
def test_a_brush_stroke_that_is_none_is_refused_before_it_takes_memory(tmp_path, stroke):
    pictures(tmp_path)
    result = {"original_width": 8, "original_height": 8, "value": {"rle": stroke, "brushlabels": ["dent"]}}
    task = {"data": {"image": "p0.png"}, "annotations": [{"result": [result]}]}
    (tmp_path / "a.json").write_text(json.dumps([task]))
    [problem] = findings_of(tmp_path).problems
    assert str(tmp_path / "a.json") in problem and "a brush stroke that" in problem


def test_a_region_that_cannot_be_drawn_is_told_with_its_picture_and_a_remedy(tmp_path):
    pictures(tmp_path)
    (tmp_path / "a.json").write_text(coco().replace("[1, 1, 3, 3]", "[1e308, 1, 3, -3]"))
    [picture] = [one for one in read_category(tmp_path, "nut", Findings()) if one.annotation]
    [problem] = examine(picture).problems
    assert problem == (
        f"{tmp_path / 'images/p0.png'}: {tmp_path / 'a.json'}: region 1, type0: a box from 1e+308, 1 to 1e+308, -2, "
        f"which is turned inside out; correct or remove it"
    )


def test_regions_that_vanish_under_others_are_one_warning_with_pictures_and_types(tmp_path):
    pictures(tmp_path)
    for number in range(3):
        shapes = shape(), shape(label="scratch" if number else "dent")
        (tmp_path / f"p{number}.json").write_text(labelme(*shapes).replace("p0.png", f"p{number}.png"))
    findings = Findings()
    validate(read_category(tmp_path, "nut", findings), findings)
    [warning] = [one for one in findings.warnings if "wholly under" in one]
    names = ", ".join(f"{tmp_path}/images/p{number}.png (dent under scratch)" for number in (1, 2))
    assert warning.startswith("2 picture(s) have region(s)") and names in warning
