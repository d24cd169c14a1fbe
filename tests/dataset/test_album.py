"""Annotations: names lead to pictures of the data set and to nothing else; whatever is wrong with files is told."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib.core.errors import UserError
from lib.core.params import Dataset, Split
from lib.dataset.album import Album
from lib.dataset.examination import examine
from lib.dataset.findings import DatasetProblems, Findings
from lib.dataset.pictures import TypeNames, fits, fitted, part_of, part_of_words, picture_names
from lib.dataset.reading import read_xml
from lib.dataset.splitting import split_categories
from tests.reading import read_category

SPLIT = Split(rule="first_third", shots=6, val_fraction=0.34)


def dataset(root: Path, **knobs: object) -> Dataset:
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    return Dataset.model_validate({"path": str(root), "categories": ["nut"], **nothing, **knobs})


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(root / name)


def test_a_name_is_found_from_the_annotation_from_the_data_set_and_from_another_machine(tmp_path):
    touch(tmp_path, "images/a.png", "images/deep/b.jpg", "other/b.jpg", "images/.hidden.png", ".cache/a.png")
    album = Album(tmp_path)
    found = {
        "a.png": album.find("a.png", tmp_path / "images"),
        "images/a.png": album.find("images/a.png"),
        "../images/a.png": album.find("..\\images\\a.png", tmp_path / "json"),
        "absolute": album.find("C:\\Users\\me\\a.png"),
        "stem": album.find("a"),
        "trailing": album.find("/home/me/deep/b.jpg"),
        "address": album.find("https://host/store/a.png?token=1#x"),
        "../elsewhere/a.png": album.find("..\\elsewhere\\a.png", tmp_path),
    }
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        **dict.fromkeys(("a.png", "images/a.png", "../images/a.png", "absolute", "stem"), "images/a.png"),
        **dict.fromkeys(("address", "../elsewhere/a.png"), "images/a.png"),
        "trailing": "images/deep/b.jpg",
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../secret.png", "leads out of the data set"),
        ("images/../../secret.png", "leads out of the data set"),
        ("/etc/passwd", "is not there"),
        ("b.jpg", "may be any of"),
        ("", "is not there"),
        ("..", "leads out"),
    ],
)
def test_a_name_that_leads_out_or_nowhere_or_to_several_is_refused(tmp_path, name, said):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    touch(tmp_path / "set", "x/b.jpg", "y/b.jpg")
    with pytest.raises(UserError, match=said):
        Album(tmp_path / "set").find(name, tmp_path / "set/json")


@given(st.lists(st.text(max_size=80), max_size=12))
def test_types_of_any_name_get_names_that_are_fit_and_distinct(labels):
    names = TypeNames()
    given_names = [names(label) for label in labels]
    assert all(fits(name) for name in given_names) and "good" not in given_names
    assert len({name.casefold() for name in given_names}) == len(set(labels))
    assert [names(label) for label in labels] == given_names


def test_names_stay_as_they_are_where_they_can():
    assert [fitted(name) for name in ("pin-hole", "Große Delle", "ß", "焊点", "a/b")] == [
        "pin-hole", "Grosse_Delle", "ss", "unnamed", "a_b",
    ]  # fmt: skip
    names = TypeNames()
    assert [names(label) for label in ("good", "Crack", "crack", "mixed")] == ["good_2", "Crack", "crack_2", "mixed"]


def test_pictures_of_one_stem_are_told_apart_by_their_folders(tmp_path):
    paths = [tmp_path / name for name in ("a/1.png", "b/1.png", "b/2.png", "b/Image 3 (x).png")]
    assert list(picture_names(paths, tmp_path).values()) == ["a_1", "b_1", "2", "Image_3_x"]


def test_parts_are_told_by_folders_and_by_the_names_of_annotation_files():
    assert [part_of(Path(name)) for name in ("images/val2017/1.png", "Test/x/1.png", "train/1.png", "test_1.png")] == [
        "val", "test", "train", "",
    ]  # fmt: skip
    assert [part_of_words(name) for name in ("instances_train2017", "my-validation", "contest", "")] == [
        "train", "val", "", "",
    ]  # fmt: skip


def write_coco(root: Path, change=None) -> None:
    """Three pictures, of which the first shows a crack, in COCO's form; `change` is called with the content."""
    touch(root, "images/a.png", "images/bb.png", "images/ccc.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}],
        "categories": [{"id": 1, "name": "crack"}],
    }
    if change:
        change(content)
    (root / "all.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][0].update(image_id=7), "its image_id is not in the file"),
        (lambda c: c["annotations"][0].update(category_id=9), "its category_id is not in the file"),
        (lambda c: c["annotations"][0].pop("bbox"), "1 annotation(s) cannot be read (KeyError): 1 ('bbox');"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), "1 annotation(s) cannot be read (ValueError"),
        (
            lambda c: c["annotations"].append(None),
            "cannot be read (TypeError): 1 (",
        ),
        (lambda c: c["images"].append(5), "1 annotation(s) cannot be read (TypeError): images[1]"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "1 picture(s) cannot be found below"),
        (lambda c: c["images"][0].update(file_name="../../gone.png"), "leads out of the data set"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [8, 8], "counts": [3, 4]}),
            "run lengths that do not fill",
        ),
    ],
)
def test_a_file_of_the_wrong_form_is_one_problem_that_names_it(tmp_path, change, said):
    write_coco(tmp_path, change)
    findings = Findings()
    read_category(tmp_path, "nut", findings)
    [problem] = findings.problems
    assert str(tmp_path / "all.json") in problem and said in problem


def test_all_malformed_annotations_of_a_file_are_told_at_once_alike_ones_together(tmp_path):
    boxes = [[1, 1, 3, 3], ["12px", 1, 1, 1], ["13px", 1, 1, 1], None, [2, 2, 3, 3]]
    whole = [{"id": 10 + n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)]
    pruned = [{**whole[0], "id": 20 + n, "image_id": 5 + n} for n in range(500)]
    write_coco(tmp_path, lambda c: c.update(annotations=[*whole, *pruned]))
    findings = Findings()
    [picture, *_] = read_category(tmp_path, "nut", findings)
    told = sorted(problem.partition(": ")[2] for problem in findings.problems)
    assert [one.partition(" (")[0] for one in told] == [f"{n} annotation(s) cannot be read" for n in (1, 2, 500)]
    assert "13 (" in told[0] and "11 (" in told[1] and "12 (" in told[1] and "20" in told[2] and len(told[2]) < 200
    assert picture.annotation is not None and len(picture.annotation.regions) == 2


def test_all_malformed_shapes_of_cvats_file_are_told_at_once(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png")
    shapes = '<box label="crack" xtl="1" ytl="1" xbr="3" {}="3"/>'
    images = {"a": shapes.format("ybr") + shapes.format("y2") + '<polygon label="crack" points="1,1;x,2;3,3"/>'}
    images |= {"b": shapes.format("y2"), "c": '<mask label="crack" left="0" top="0" width="2" height="2" rle="1,9"/>'}
    inner = "".join(f'<image name="{n}.png" width="8" height="8">{shape}</image>' for n, shape in images.items())
    (tmp_path / "all.xml").write_text(f'<annotations>{inner}<image id="9" width="8" height="8"/></annotations>')
    findings = Findings()
    [picture, *_] = read_category(tmp_path, "nut", findings)
    told = " ".join(findings.problems)
    assert len(findings.problems) == 3 and all(str(tmp_path / "all.xml") in problem for problem in findings.problems)
    assert "3 annotation(s) cannot be read (KeyError): box, element 2 of a.png ('ybr'), box, element 1 of b.png" in told
    assert "polygon, element 3 of a.png" in told and "do not fill 2 x 2 px" in told and "image 3 ('name')" in told
    assert picture.annotation is not None and len(picture.annotation.regions) == 1, "the sound ones are read"


def test_all_malformed_results_of_label_studio_are_told_at_once(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    box = {"x": 10, "y": 10, "width": 30, "height": 30, "rectanglelabels": ["crack"]}
    size = {"original_width": 8, "original_height": 8, "type": "rectanglelabels"}
    results = [{"id": "r1", "value": box, **size}, {"id": "r2", "value": box | {"x": "left"}, **size}]
    results.append({"id": "r3", "value": {"rle": [1, 2], "brushlabels": ["crack"]}, **size})
    tasks = [
        {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]},
        {"id": 2, "data": {"image": "b.png"}, "annotations": [{"result": results[1:2]}]},
        {"id": 3, "data": {}, "annotations": [{"result": []}]},
        {"id": 4, "data": {"image": "b.png"}, "annotations": [{}]},
    ]
    (tmp_path / "all.json").write_text(json.dumps(tasks))
    findings = Findings()
    [picture, *_] = read_category(tmp_path, "nut", findings)
    told = " ".join(findings.problems)
    assert len(findings.problems) == 4 and all(str(tmp_path / "all.json") in problem for problem in findings.problems)
    assert "2 annotation(s) cannot be read (ValueError): result r2 of task 1" in told and "result r2 of task 2" in told
    assert "brush stroke" in told and "names no picture, or a list of them" in told and "task 4 ('result')" in told
    assert picture.annotation is not None and len(picture.annotation.regions) == 1, "the sound ones are read"


def test_a_picture_of_another_size_than_was_annotated_is_a_problem(tmp_path):
    write_coco(tmp_path, lambda c: c["images"][0].update(width=16, height=8))
    with pytest.raises(DatasetProblems, match=r"all\.json: it was made for a picture of 16 x 8 px, .*a\.png has 8 x 8"):
        split_categories(dataset(tmp_path), SPLIT)


def test_an_annotation_of_a_picture_as_it_is_stored_is_turned_with_it(tmp_path):
    write_coco(tmp_path, lambda c: c["images"][0].update(width=12, height=8))
    stored = np.zeros((8, 12, 3), np.uint8)
    stored[1:4, 1:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "images/a.png", exif=exif)
    [picture] = [one for one in read_category(tmp_path, "nut", Findings()) if one.annotation]
    seen = examine(picture, "whole")
    assert seen.problems == () and seen.size == (8, 12) and seen.turned_mask and seen.drawn
    labels = np.asarray(Image.open(io.BytesIO(seen.drawn.png)))
    assert np.array_equal(labels > 0, np.rot90(stored[..., 0] > 0, -1))


def test_pictures_in_a_folder_good_are_good_and_others_that_nobody_names_are_told(tmp_path):
    write_coco(tmp_path)
    touch(tmp_path, "images/good/dddd.png")
    findings = Findings()
    pictures = read_category(tmp_path, "nut", findings)
    assert [picture.id for picture in pictures] == ["crack-a", "good-dddd"]
    assert "not read: 2 picture(s) that no annotation names" in findings.warnings[0]


def test_entities_in_xml_are_refused(tmp_path):
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>&a;</annotation>'
    (tmp_path / "x.xml").write_text(bomb)
    with pytest.raises(UserError, match=r"x\.xml: XML with a document type"):
        read_xml(tmp_path / "x.xml")
    (tmp_path / "x.xml").write_text("<annotation>")
    with pytest.raises(UserError, match="no valid XML"):
        read_xml(tmp_path / "x.xml")


NO_UTF8 = "\ud800".encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b'{"images": []}', b'"text"', NO_UTF8])
def test_json_that_is_none_is_passed_over_and_never_a_traceback(tmp_path, content):
    touch(tmp_path, "good/1.png", "crack/2.png", "crack/2_mask.png")
    (tmp_path / "x.json").write_bytes(content)
    findings = Findings()
    assert len(read_category(tmp_path, "nut", findings)) == 2 and findings.problems == []


@pytest.mark.parametrize("layout", ["auto", "coco"])
def test_annotations_that_cannot_be_read_are_named_whatever_else_is_found(tmp_path, layout):
    write_coco(tmp_path / "nut")
    (tmp_path / "nut/all.json").write_text('{"images": [],}')
    with pytest.raises(DatasetProblems, match=r"all\.json: no valid JSON"):
        split_categories(dataset(tmp_path, layout=layout), SPLIT)


def test_a_file_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.dataset.reading.MAX_BYTES", 10)
    write_coco(tmp_path)
    with pytest.raises(DatasetProblems, match=r"all\.json: \d+ bytes, at most 10 are read"):
        split_categories(dataset(tmp_path, layout="coco"), SPLIT)


def test_a_picture_of_a_format_that_is_not_read_is_told_as_such(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "0.webp").touch()
    with pytest.raises(UserError, match=r"'0.webp' is there, but is of no format that is read \(.png, "):
        Album(tmp_path).find("0.webp")


@pytest.mark.parametrize(
    ("turns", "stored", "told", "is_doubtful"),
    [(6, (12, 8), True, False), (6, (8, 8), True, True), (6, (12, 8), False, True), (3, (12, 8), True, True)],
)
def test_an_annotation_that_fits_a_turned_picture_either_way_is_doubtful(tmp_path, turns, stored, told, is_doubtful):
    """told: the file gives the size, that of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = turns
    width, height = stored[::-1] if turns == 6 else stored
    write_coco(
        tmp_path,
        lambda c: c.update(
            images=[{"id": 1, "file_name": "a.png", **({"width": width, "height": height} if told else {})}]
        ),
    )
    Image.new("RGB", stored).save(tmp_path / "images/a.png", exif=exif)
    [picture] = [one for one in read_category(tmp_path, "nut", Findings()) if one.annotation]
    assert examine(picture, "whole").doubtful_turn == is_doubtful


def test_several_masks_of_a_picture_that_fit_it_as_it_is_stored_are_turned_with_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((8, 12, 3), np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    masks = np.zeros((2, 8, 12), np.uint8)
    masks[0, 1:3, 1:4] = masks[1, 5:7, 8:11] = 255
    for n, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / f"m{n}.png")
    (tmp_path / "all.csv").write_text("picture,mask,type\na.png,m0.png,dent\na.png,m1.png,crack\n")
    [picture] = [one for one in read_category(tmp_path, "nut", Findings()) if one.annotation]
    seen = examine(picture)
    assert seen.problems == () and seen.turned_mask and seen.drawn
    labels = np.asarray(Image.open(io.BytesIO(seen.drawn.png)))
    assert np.array_equal(labels > 0, np.rot90(masks.max(axis=0) > 0, -1))
