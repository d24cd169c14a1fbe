"""A picture of which annotations leave open whether it is good is no good picture: it is left out, and named."""

import json
from pathlib import Path

import pytest

from lib.dataset.findings import Findings
from lib.dataset.pictures import Picture
from tests.dataset.test_odd_annotations import pictures
from tests.reading import read_category

LINE = [[1, 1], [6, 6]]
SQUARE = [[1, 1], [4, 1], [4, 4]]


def read(root: Path) -> tuple[dict[str, Picture], Findings]:
    findings = Findings()
    return {one.path.stem: one for one in read_category(root, "nut", findings)}, findings


def labelme(root: Path, *kinds: str, label: str = "crack", flags: dict | None = None) -> None:
    """p0 and p1 have a polygon, p2 has what the kinds say."""
    pictures(root)
    for number in range(3):
        shapes = [
            {
                "label": label if number == 2 else "crack",
                "shape_type": kind,
                "points": SQUARE if kind == "polygon" else LINE,
            }
            for kind in (kinds if number == 2 else ("polygon",))
        ]
        content = {"imagePath": f"p{number}.png", "imageWidth": 8, "imageHeight": 8, "shapes": shapes}
        content |= {"flags": flags or {}} if number == 2 else {}
        (root / f"images/p{number}.json").write_text(json.dumps(content))


def cvat(root: Path, inner: str) -> None:
    pictures(root)
    polygon = '<polygon label="crack" points="1,1;4,1;4,4"/>'
    images = [f'<image name="p{n}.png" width="8" height="8">{inner if n == 2 else polygon}</image>' for n in range(3)]
    (root / "a.xml").write_text(f"<annotations>{''.join(images)}</annotations>")


def result(kind: str, **value) -> dict:
    return {"type": kind, "original_width": 8, "original_height": 8, "value": value}


def box(label: str = "crack") -> dict:
    return result("rectanglelabels", x=10, y=10, width=30, height=30, rectanglelabels=[label])


def studio(root: Path, *annotations: dict) -> None:
    """p0 and p1 show a crack, p2 has the annotations."""
    pictures(root)
    tasks = [
        {"data": {"image": f"p{n}.png"}, "annotations": annotations if n == 2 else [{"result": [box()]}]}
        for n in range(3)
    ]
    (root / "a.json").write_text(json.dumps(tasks))


def left_out(root: Path) -> None:
    found, findings = read(root)
    assert set(found) == {"p0", "p1"} and not findings.problems
    [warning] = [one for one in findings.warnings if "left out: 1 picture(s) whose annotations mark no area" in one]
    assert "p2.png" in warning and "draw closed shapes" in warning
    assert not any("no annotation names" in one for one in findings.warnings)


@pytest.mark.parametrize("kind", ["linestrip", "point", "line"])
def test_lines_and_points_of_labelme_make_no_good_picture(tmp_path, kind):
    labelme(tmp_path, kind)
    left_out(tmp_path)


def test_nor_does_a_flag_of_labelme_that_says_something_else(tmp_path):
    labelme(tmp_path, flags={"defect": True, "good": False})
    left_out(tmp_path)
    labelme(tmp_path, flags={"defect": False, "Good": True})
    assert read(tmp_path)[0]["p2"].defect_type == "good"


@pytest.mark.parametrize("kind", ["polyline", "points", "tag"])
def test_lines_points_and_tags_of_cvat_make_no_good_picture(tmp_path, kind):
    cvat(tmp_path, f'<{kind} label="crack" points="1,1;4,4"/>')
    left_out(tmp_path)


@pytest.mark.parametrize(
    "one",
    [
        result("choices", choices=["crack"]),
        result("keypointlabels", x=10, y=10, width=0.5, keypointlabels=["crack"]),
        result("vectorlabels", vertices=[{"x": 1, "y": 1}], vectorlabels=["crack"]),
        result("rectangle", x=10, y=10, width=30, height=30),
    ],
    ids=["choice", "keypoint", "vector", "no_label"],
)
def test_what_marks_no_area_in_label_studio_makes_no_good_picture(tmp_path, one):
    studio(tmp_path, {"result": [one]})
    left_out(tmp_path)


def test_a_word_for_good_leaves_a_picture_good(tmp_path):
    studio(tmp_path / "studio", {"result": [result("choices", choices=["OK"])]})
    cvat(tmp_path / "cvat", '<tag label="Normal"/>')
    for name in ("studio", "cvat"):
        found, findings = read(tmp_path / name)
        assert found["p2"].defect_type == "good" and not findings.warnings


def test_a_picture_keeps_its_regions_whatever_else_is_said_of_it(tmp_path):
    labelme(tmp_path / "labelme", "polygon", "line")
    cvat(
        tmp_path / "cvat",
        '<polyline label="crack" points="1,1;4,4"/><box label="crack" xtl="1" ytl="1" xbr="4" ybr="4"/>',
    )
    studio(tmp_path / "studio", {"result": [box(), {"type": "relation", "from_id": "a", "to_id": "b"}]})
    for name, kind in {"labelme": "line", "cvat": "polyline", "studio": "relation"}.items():
        found, findings = read(tmp_path / name)
        assert found["p2"].defect_type == "crack" and f"marks no area: 1 {kind}" in findings.warnings[0]
        assert len(findings.warnings) == 1


def test_a_picture_called_good_that_shows_a_defect_is_named_and_shows_it(tmp_path):
    studio(tmp_path, {"result": [result("choices", choices=["ok"]), box()]})
    found, findings = read(tmp_path)
    assert found["p2"].defect_type == "crack"
    assert "1 picture(s) are called good, and show defects" in findings.warnings[0]


@pytest.mark.parametrize("label", ["good", "OK"])
def test_an_area_that_is_called_good_marks_no_defect(tmp_path, label):
    labelme(tmp_path, "polygon", label=label)
    found, findings = read(tmp_path)
    assert found["p2"].defect_type == "good" and found["p2"].annotation is None
    assert f"called good mark no defect, and are not read: 1 {label!r}" in findings.warnings[0]


EMPTY: dict = {"result": []}
CRACK = {"result": [box()]}
FINE = {"result": [result("choices", choices=["good"])]}


@pytest.mark.parametrize("two", [(EMPTY, CRACK), (CRACK, EMPTY), (FINE, CRACK)])
def test_a_picture_on_which_annotators_disagree_is_left_out(tmp_path, two):
    studio(tmp_path, *two)
    found, findings = read(tmp_path)
    assert set(found) == {"p0", "p1"} and not findings.problems
    [warning] = findings.warnings
    assert "left out: 1 picture(s) that one annotation calls good" in warning and "p2.png" in warning


@pytest.mark.parametrize(
    ("annotations", "kind"),
    [
        ((EMPTY, CRACK | {"ground_truth": True}), "crack"),
        ((EMPTY | {"ground_truth": True}, CRACK), "good"),
        ((EMPTY, CRACK | {"was_cancelled": True}), "good"),
        ((EMPTY, FINE), "good"),
        ((CRACK | {"updated_at": "2026-01-02"}, {"result": [box("dent")], "updated_at": "2026-01-01"}), "crack"),
        ((CRACK | {"created_at": "2026-01-01"}, {"result": [box("dent")], "created_at": "2026-01-02"}), "dent"),
    ],
)
def test_of_annotations_that_agree_the_latest_counts_and_ground_truth_before_all(tmp_path, annotations, kind):
    studio(tmp_path, *annotations)
    found, findings = read(tmp_path)
    assert found["p2"].defect_type == kind and not findings.problems
