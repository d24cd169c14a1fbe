"""What would draw an annotation onto another picture, in another shape or into another part is read right or told."""

import json
import unicodedata
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.dataset.album import Album
from lib.dataset.annotations import Polygon, Rectangle
from lib.dataset.findings import Findings
from lib.dataset.pictures import Picture
from tests.dataset.test_album import touch
from tests.dataset.test_odd_annotations import coco, labelme, shape
from tests.reading import read_category

BOX = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"


def read(root: Path) -> tuple[dict[str, Picture], Findings]:
    """The pictures by their path in the data set, and the findings."""
    findings = Findings()
    pictures = read_category(root, "nut", findings)
    return {one.path.relative_to(root).as_posix(): one for one in pictures}, findings


# Which picture


def test_a_picture_that_is_missing_in_its_folder_is_none_of_the_same_name_in_another_one(tmp_path: Path):
    touch(tmp_path, "cam1/1.png", "cam2/0.png", "cam2/1.png")
    for name in ("cam1/0.png", "/home/me/set/cam1/0.png", "http://host/cam1/0.png"):
        with pytest.raises(UserError, match=r"is not there, only .*cam2/0\.png"):
            Album(tmp_path).find(name)
    assert Album(tmp_path).find("upload/7/0.png") == tmp_path / "cam2/0.png", "a folder that the data set has not"


def test_a_picture_of_one_part_is_none_of_another(tmp_path: Path):
    touch(tmp_path, "test/images/0.png")
    with pytest.raises(UserError, match="is not there"):
        Album(tmp_path).find("train/images/0.png")
    assert Album(tmp_path).find("images/test/0.png").name == "0.png"


def test_two_names_of_a_file_that_lead_to_one_picture_are_told(tmp_path: Path):
    touch(tmp_path, "all/0.png", "all/1.png")
    content = json.loads(coco())
    for image, name in zip(content["images"], ("cam1/0.png", "cam2/0.png"), strict=True):
        image["file_name"] = name
    (tmp_path / "all.json").write_text(json.dumps(content))
    [problem] = read(tmp_path)[1].problems
    assert "all.json: 1 picture(s) are all that there is for two names: 'cam1/0.png' and 'cam2/0.png'" in problem


def test_a_picture_that_two_files_name_differently_is_told(tmp_path: Path):
    touch(tmp_path, "cam1/0.png", "cam1/1.png")
    for camera in ("cam1", "cam2"):  # the folder of the second one was not copied
        content = json.loads(coco())
        for image, name in zip(content["images"], ("0.png", "1.png"), strict=True):
            image["file_name"] = f"{camera}/{name}"
        (tmp_path / f"{camera}.json").write_text(json.dumps(content))
    [problem] = read(tmp_path)[1].problems
    assert "cam2.json: 2 picture(s) are all that there is for two names: 'cam1/0.png' and 'cam2/0.png'" in problem
    (tmp_path / "cam2.json").write_text((tmp_path / "cam1.json").read_text().replace("cam1/", ""))
    assert read(tmp_path)[1].problems == [], "one and the same"


def test_names_match_as_macos_stores_them_and_in_their_own_case_before_others(tmp_path: Path):
    name = "Rädchen.png"
    touch(tmp_path, f"deep/{unicodedata.normalize('NFD', name)}", "deep/b.png", "deep/B.png")
    album = Album(tmp_path)
    for form in ("NFC", "NFD"):
        for wanted in (name, f"deep/{name}"):
            assert album.find(unicodedata.normalize(form, wanted)) in album.paths
    assert [album.find(one).name for one in ("b.png", "B.png")] == ["b.png", "B.png"]


def test_an_address_that_is_none_is_one_problem_and_the_others_are_read(tmp_path: Path):
    touch(tmp_path, "p0.png", "p1.png")
    content = json.loads(coco())
    content["images"][1]["file_name"] = "http://[b/p1.png"
    (tmp_path / "all.json").write_text(json.dumps(content))
    pictures, findings = read(tmp_path)
    assert pictures["p0.png"].annotation and "'http://[b/p1.png' is no address" in findings.problems[0]


def test_links_to_folders_are_told(tmp_path: Path):
    touch(tmp_path, "elsewhere/p1.png", "set/p0.png")
    (tmp_path / "set/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/all.json").write_text(coco())
    assert any(
        "links to folders are not followed" in told and "set/more" in told
        for told in read(tmp_path / "set")[1].warnings
    )


def test_one_picture_may_be_named_in_several_ways(tmp_path: Path):
    touch(tmp_path, "train/images/0.png")
    content = json.loads(coco())
    for names in (("images/0.png", "images\\0.png"), ("./images/0.png", "images/0.png"), ("0.png", "images/0.png")):
        for image, name in zip(content["images"], names, strict=True):
            image["file_name"] = name
        (tmp_path / "all.json").write_text(json.dumps(content))
        assert not read(tmp_path)[1].problems


def test_folders_of_another_machine_are_no_parts(tmp_path: Path):
    touch(tmp_path, "train/0.png")
    for name in ("/home/me/test/pictures/0.png", "http://host/test/pictures/0.png", "C:\\test\\pictures\\0.png"):
        assert Album(tmp_path).find(name) == tmp_path / "train/0.png"


def test_a_missing_picture_of_a_task_is_not_looked_for_in_its_other_texts(tmp_path: Path):
    touch(tmp_path, "12.png")
    box = {"x": 10, "y": 10, "width": 30, "height": 30, "rectanglelabels": ["crack"]}
    one = {"value": box, "original_width": 8, "original_height": 8, "type": "rectanglelabels", "to_name": "image"}
    data = {"part": "12", "image": "/data/upload/1/abcdef12-5.png"}
    tasks = [{"id": 1, "data": data, "annotations": [{"result": [one, {**one, "to_name": None}]}]}]
    (tmp_path / "all.json").write_text(json.dumps(tasks))
    pictures, findings = read(tmp_path)
    assert not pictures and "is not there" in findings.problems[0]


def test_a_file_of_labels_is_of_one_picture(tmp_path: Path):
    touch(tmp_path, "images/a.png", "images/a.jpg", "images/b.png")
    (tmp_path / "labels").mkdir()
    for name in "ab":
        (tmp_path / f"labels/{name}.txt").write_text("0 0.5 0.5 0.2 0.2")
    [problem] = read(tmp_path)[1].problems
    assert "labels/a.txt of a.jpg, a.png; rename" in problem.replace("a.png, a.jpg", "a.jpg, a.png")


def test_boxes_of_voc_belong_to_the_picture_of_their_files_name(tmp_path: Path):
    touch(tmp_path, *(f"p{n}.png" for n in range(3)))
    for n in range(3):
        (tmp_path / f"p{n}.xml").write_text(
            f"<annotation><filename>p0.png</filename><object><name>a</name>{BOX}</object></annotation>"
        )
    pictures, findings = read(tmp_path)
    assert [len(one.annotation.regions) for one in pictures.values() if one.annotation] == [1, 1, 1]
    [warning] = findings.warnings
    assert "2 file(s) name another picture" in warning and "p1.xml (p0.png)" in warning


def test_boxes_of_voc_belong_first_of_all_to_the_picture_beside(tmp_path: Path):
    touch(tmp_path, "train/0.png", "train/5.png", "test/0.png")
    for n, objects in ((0, f"<object><name>a</name>{BOX}</object>"), (5, "")):
        text = f"<annotation><filename>5.png</filename>{objects}</annotation>"
        (tmp_path / f"train/{n}.xml").write_text(text)
    pictures, findings = read(tmp_path)
    assert pictures["train/0.png"].annotation and not pictures["train/5.png"].annotation
    assert any("0.xml (5.png)" in warning for warning in findings.warnings)


def test_boxes_of_voc_whose_two_names_lead_to_a_good_picture_and_another_one_are_a_problem(tmp_path: Path):
    touch(tmp_path, "good/0001.png", "ng/IMG_7.png")
    (tmp_path / "labels").mkdir()
    text = f"<annotation><filename>IMG_7.png</filename><object><name>a</name>{BOX}</object></annotation>"
    (tmp_path / "labels/0001.xml").write_text(text)
    [problem] = read(tmp_path)[1].problems
    assert "0001.xml: its own name leads to a picture, and IMG_7.png in it to another" in problem


def test_areas_on_two_pictures_of_a_task_are_refused_and_other_texts_of_a_task_passed_over(tmp_path: Path):
    touch(tmp_path, "a.png", "b.png")
    box = {"x": 10, "y": 10, "width": 30, "height": 30, "rectanglelabels": ["crack"]}
    one = {"value": box, "original_width": 8, "original_height": 8, "type": "rectanglelabels"}
    two = {"id": 1, "data": {"top": "a.png", "side": "b.png"}}
    serial = {"id": 2, "data": {"serial": "S0", "img": "/data/upload/1/0123abcd-b.png"}}
    tasks = [
        two | {"annotations": [{"result": [one | {"to_name": "t"}, one | {"to_name": "s"}]}]},
        serial | {"annotations": [{"result": [one | {"to_name": "t"}]}]},
    ]
    (tmp_path / "all.json").write_text(json.dumps(tasks))
    pictures, findings = read(tmp_path)
    [problem] = findings.problems
    assert "areas on several pictures of one task (s, t)" in problem and "task 1" in problem
    assert [*pictures] == ["b.png"] and pictures["b.png"].annotation


# In which shape


@pytest.mark.parametrize(
    ("points", "kind", "expected"),
    [
        ([[1, 2], [6, 4]], "rectangle", Rectangle((1, 2, 6, 4))),
        ([[6, 4], [1, 2]], "rectangle", Rectangle((1, 2, 6, 4))),
        ([[1, 2], [6, 2], [6, 4], [1, 4]], "rectangle", Rectangle((1, 2, 6, 4))),
        ([[3, 1], [5, 3], [3, 5], [1, 3]], "rectangle", Polygon(((3, 1, 5, 3, 3, 5, 1, 3),))),
        ([[3, 1], [5, 3], [3, 5], [1, 3]], "rotation", Polygon(((3, 1, 5, 3, 3, 5, 1, 3),))),
    ],
)
def test_a_rectangle_has_two_corners_or_four(tmp_path: Path, points, kind: str, expected):
    touch(tmp_path, "p0.png")
    (tmp_path / "a.json").write_text(labelme(shape(points=points, shape_type=kind)))
    pictures, _ = read(tmp_path)
    assert [region.shape for region in pictures["p0.png"].annotation.regions] == [expected]


def test_a_ring_of_coco_may_be_flat(tmp_path: Path):
    touch(tmp_path, "p0.png", "p1.png")
    content = json.loads(coco())
    content["annotations"][0]["segmentation"] = [1, 1, 4, 1, 4, 4]
    (tmp_path / "all.json").write_text(json.dumps(content))
    pictures, _ = read(tmp_path)
    assert pictures["p0.png"].annotation.regions[0].shape == Polygon(((1, 1, 4, 1, 4, 4),))


def test_polygons_in_files_of_voc_are_read(tmp_path: Path):
    touch(tmp_path, "p0.png")
    ring = "".join(
        f"<{axis}{n}>{value}</{axis}{n}>"
        for n, xy in enumerate([(1, 1), (5, 1), (1, 5)], 1)
        for axis, value in zip("xy", xy, strict=True)
    )
    text = f"<annotation><object><name>a</name><polygon>{ring}</polygon>{BOX}</object></annotation>"
    (tmp_path / "p0.xml").write_text(text)
    pictures, _ = read(tmp_path)
    assert pictures["p0.png"].annotation.regions[0].shape == Polygon(((1, 1, 5, 1, 1, 5),))


# In which part


def test_pictures_in_two_lists_of_voc_and_listed_ones_without_boxes_are_told(tmp_path: Path):
    touch(tmp_path, "p0.png", "p1.png")
    for n in range(2):
        (tmp_path / f"p{n}.xml").write_text(f"<annotation><object><name>a</name>{BOX}</object></annotation>")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("p0.png\np1\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("p1\np9\n")
    _, findings = read(tmp_path)
    [problem], [warning] = findings.problems, findings.warnings
    assert "train.txt: 1 picture(s) are in the list of another part, too: p1" in problem
    assert "1 picture(s) in ImageSets/Main have no file of boxes: p9" in warning


def test_subsets_of_cvat_that_are_no_part_are_told(tmp_path: Path):
    touch(tmp_path, "a.png", "b.png")
    images = "".join(
        f'<image name="{n}.png" width="8" height="8" subset="{part}"/>'
        for n, part in zip("ab", ("Trian", "Test"), strict=True)
    )
    (tmp_path / "all.xml").write_text(f"<annotations>{images}</annotations>")
    pictures, findings = read(tmp_path)
    assert any("subsets that are no part, and count for none: Trian (1)" in one for one in findings.warnings)
    assert [pictures[f"{n}.png"].folder for n in "ab"] == ["", "test"]


def test_parts_of_visa_that_contradict_or_are_unknown_are_problems(tmp_path: Path):
    touch(tmp_path, *(f"nut/Data/Images/Normal/{n}.png" for n in range(3)))
    rows = [
        f"nut,{part},normal,nut/Data/Images/Normal/{n}.png,"
        for n, part in ((0, "train"), (1, "train"), (1, "test"), (2, "trian"))
    ]
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(["object,split,label,image,mask", *rows]))
    told = "\n".join(read(tmp_path / "nut")[1].problems)
    assert "1 picture(s) are in several parts; keep them in one: nut/Data/Images/Normal/1.png" in told
    assert "1 picture(s) are in an unknown part; expected train or test: nut/Data/Images/Normal/2.png" in told
