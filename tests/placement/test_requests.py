"""Requests by hand: drawn places become placements beside the random ones, whose names and bytes stay as they are."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import UserError
from lib.core.forms import REQUESTS
from lib.core.geometry import polygon_mask
from lib.core.images import write_png
from lib.core.records import DefectBox, Placement, RegionMap, Sample, read_records, write_records
from lib.core.runtime import write_text
from lib.language import location_of, prompt
from lib.placement.random_boxes import place_boxes
from lib.placement.requests import nearest, place_requests, read_requests
from stages import random_boxes
from tests.toy import toy_category

TOY = tuple[list[Sample], list[DefectBox]]


@pytest.fixture
def toy(inside: Path) -> TOY:
    return toy_category(Path("pictures"))


def write_requests(*rows: str) -> None:
    write_text(REQUESTS.path, "\n".join([",".join(REQUESTS.columns), *rows, ""]))


def placed(toy: TOY, *rows: str) -> list[Placement]:
    write_requests(*rows)
    return place_requests(read_requests({"toy": toy})[0]["toy"], *toy, seed=0)


def problems(toy: TOY, *rows: str) -> list[str]:
    write_requests(*rows)
    with pytest.raises(UserError) as caught:
        read_requests({"toy": toy})
    return str(caught.value).splitlines()


BOX, SHAPE = "toy,good-1,scratch,20 30 44 40,,3,", 'toy,good-2,chip,,"10 10 30 12 28 25 12 20",2,"=evil, note"'


def test_without_a_table_nothing_is_asked_for(toy: TOY):
    assert read_requests({"toy": toy}) == ({"toy": []}, "")


def test_rows_of_other_categories_wait_until_these_are_asked_for_again(toy: TOY):
    write_requests(BOX, BOX.replace("toy", "other"))
    requests, told = read_requests({"toy": toy})
    assert [request.count for request in requests["toy"]] == [3]
    assert told == "data/requests/requests.csv: no category of dataset.categories is other; rows of others wait"


def test_what_a_table_calls_its_categories_neither_floods_nor_colours_a_terminal(toy: TOY):
    write_requests(*(BOX.replace("toy", name) for name in ("\x1b[31mred", "x" * 99, *map(str, range(50)))))
    told = read_requests({"toy": toy})[1]
    assert "\x1b" not in told and "'\\x1b[31mred'" in told and "x" * 61 not in told and " and 42 more" in told


def test_a_box_becomes_as_many_placements_as_asked_for_each_with_its_own_seed(toy: TOY):
    placements = placed(toy, BOX)
    assert len(placements) == len({one.seed for one in placements}) == len({one.id for one in placements}) == 3
    for one in placements:
        assert (one.category, one.normal, one.defect_type) == ("toy", "good-1", "scratch")
        assert one.box == (20, 30, 44, 40) and one.shape is None
        assert one.location == location_of(one.box, 160, 120)
        assert one.prompt == prompt("scratch", "toy", one.location)


def test_a_shape_brings_its_box_or_lies_within_a_larger_one(toy: TOY):
    [one, _] = placed(toy, SHAPE)
    assert one.shape == ((10, 10), (30, 12), (28, 25), (12, 20)) and one.box == (10, 10, 31, 26)
    [other, _] = placed(toy, SHAPE.replace(",chip,,", ",chip,5 5 40 40,"))
    assert other.shape == one.shape and other.box == (5, 5, 40, 40) and other.id != one.id


def test_names_are_those_of_the_place_alone(toy: TOY):
    alone = placed(toy, BOX)
    among = placed(toy, SHAPE, BOX.replace(",3,", ",5,other words"))
    assert {one.id: one for one in alone}.items() <= {one.id: one for one in among}.items()
    moved = placed(toy, BOX.replace("44 40", "44 41"))
    assert not {one.id for one in alone} & {one.id for one in moved}
    shaped = placed(toy, BOX.replace("44 40,", "44 40,20 30 43 30 30 39"))
    assert shaped[0].box == alone[0].box and not {one.id for one in alone} & {one.id for one in shaped}


def test_random_placements_do_not_change_and_have_other_names(toy: TOY):
    samples, boxes = toy
    real = Path("data/prepared/toy/samples.jsonl"), Path("data/boxes/toy.jsonl")
    write_records(real[0], samples)
    write_records(real[1], boxes)
    text = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    values["dataset"]["categories"] = ["toy"]
    values["placements"]["per_type"] = 3
    write_text(Path("params.yaml"), yaml.safe_dump(values))
    random_boxes.main()
    before = read_records(Path("data/placements/toy.jsonl"), Placement)
    write_requests(BOX, SHAPE)
    random_boxes.main()
    after = read_records(Path("data/placements/toy.jsonl"), Placement)
    assert (
        before == after[: len(before)] == place_boxes(samples, boxes, 3, values["placements"]["jitter"], values["seed"])
    )
    assert len(after) == len(before) + 5 == len({one.id for one in after})
    assert all("-asked-" in one.id for one in after[len(before) :])
    REQUESTS.path.unlink()
    random_boxes.main()
    assert read_records(Path("data/placements/toy.jsonl"), Placement) == before


def test_no_name_of_a_request_can_be_that_of_a_random_placement(toy: TOY):
    random = {one.id for one in place_boxes(*toy, 2, 0.1, 0)}
    assert all(re.fullmatch(r".*-\d{5}", name) for name in random)
    for one in placed(toy, BOX, SHAPE):
        assert re.fullmatch(r"toy-(scratch|chip)-asked-[0-9a-f]{8}-\d{3}", one.id), (
            "three digits, where those have five"
        )


def test_placements_are_like_the_nearest_real_defects_of_their_type_in_turns(toy: TOY):
    likes = [(one.like, one.component) for one in placed(toy, BOX)]
    reals = [box for box in toy[1] if box.defect_type == "scratch" and not box.sample.endswith("val")]
    order = nearest((20, 30, 44, 40), reals, (160, 120))
    assert likes == [(order[n % len(order)].sample, order[n % len(order)].component) for n in range(3)]
    assert {one.like for one in placed(toy, SHAPE)} <= {"chip-0", "chip-1"}


def test_nearest_is_in_size_and_aspect_and_does_not_depend_on_the_order():
    def real(name: str, width: int, height: int) -> DefectBox:
        return DefectBox(name, 0, "x", (3, 4, 3 + width, 4 + height), 1)

    size = 200, 100
    flat, tall, square, large = real("a", 40, 10), real("b", 10, 40), real("c", 20, 20), real("d", 80, 20)
    for reals in ([flat, tall, square, large], [large, square, tall, flat]):
        assert nearest((0, 0, 38, 11), reals, size)[0] == flat
        assert nearest((0, 0, 11, 38), reals, size)[0] == tall
        assert nearest((0, 0, 90, 22), reals, size)[0] == large
    assert len(nearest((0, 0, 9, 9), [real(str(n), 10, 10) for n in range(9)], size)) == 4
    assert [one.sample for one in nearest((0, 0, 9, 9), [real(n, 10, 10) for n in "cab"], size)] == ["a", "b", "c"]


def test_a_defect_that_would_look_torn_off_comes_last():
    fray = DefectBox("a", 0, "fray", (10, 88, 50, 100), 1, ("bottom",))
    inner = DefectBox("b", 0, "fray", (10, 40, 90, 90), 1)
    assert nearest((60, 20, 100, 32), [fray, inner], (200, 100)) == [inner, fray]
    assert nearest((60, 88, 100, 100), [fray, inner], (200, 100)) == [fray, inner]


def test_bad_rows_are_told_all_at_once_with_their_lines(toy: TOY):
    told = problems(
        toy,
        BOX,
        BOX.replace("toy", "other").replace(",3,", ",bad,"),
        BOX.replace("good-1", "good-val"),
        BOX.replace("good-1", "scratch-0"),
        BOX.replace("scratch", "dent"),
        BOX.replace("44 40", "161 40"),
        BOX.replace("44 40", "20 40"),
        BOX.replace("20 30 44 40", "20 30 44"),
        BOX.replace("20 30 44 40", "-2 30 44 40"),
        BOX.replace(",3,", ",0,"),
        BOX.replace(",3,", ",1001,"),
        BOX.replace(",3,", ",many,"),
        BOX.replace(",,", ",1 2 3,"),
        BOX.replace(",,", ",19 30 30 35 25 38,"),
        BOX.replace(",,", ",20 30 44 35 25 38,"),
        "toy,good-1,scratch,,,1,",
        BOX,
    )
    expected = {
        4: "'good-val' is no good picture of the train part, such as good-0, good-1",
        5: "'scratch-0' is no good picture",
        6: "no real defect of the type 'dent' in the train part, known are chip, scratch",
        7: "box 20 30 161 40: is empty, or leaves the picture of 160 x 120 px",
        8: "box 20 30 20 40: is empty",
        9: "box '20 30 44': expected x0 y0 x1 y1",
        10: "box '-2 30 44 40'",
        11: "count '0': expected a number from 1 to 1000",
        12: "count '1001'",
        13: "count 'many'",
        14: "polygon '1 2 3': expected x y x y x y",
        15: "polygon: leaves its box 20 30 44 40",
        16: "polygon: leaves its box 20 30 44 40",
        17: "box '': expected x0 y0 x1 y1",
        18: "the request of line 2 once more",
    }
    assert len(told) == len(expected)
    for line, part in expected.items():
        assert any(f"data/requests/requests.csv, line {line}: {part}" in one for one in told), (line, told)


def test_several_faults_of_a_row_are_all_told_and_so_is_what_is_no_row(toy: TOY):
    told = problems(toy, "toy,nowhere,dent,1,,x,", "a,b")
    assert sum("line 2:" in one for one in told) == 4 and sum("line 3:" in one for one in told) == 1


def test_too_many_samples_are_refused(toy: TOY):
    told = problems(toy, *(f"toy,good-0,chip,0 0 9 {number + 1},,1000," for number in range(101)))
    assert "asks for 101,000 samples, at most 100,000 are made" in told[-1]


coordinates = st.tuples(st.integers(0, 19), st.integers(0, 14))


@given(st.lists(coordinates, min_size=3, max_size=9))
def test_the_mask_of_a_polygon_lies_in_its_box_and_holds_its_points(points: list[tuple[int, int]]):
    x0, y0 = (min(point[axis] for point in points) for axis in (0, 1))
    x1, y1 = (max(point[axis] for point in points) + 1 for axis in (0, 1))
    mask = polygon_mask(tuple(points), (x0, y0, x1, y1))
    assert mask.shape == (y1 - y0, x1 - x0) and mask.dtype == bool
    assert all(mask[y - y0, x - x0] for x, y in points)
    whole = polygon_mask(tuple(points), (0, 0, 20, 15))
    assert np.array_equal(whole[y0:y1, x0:x1], mask) and whole.sum() == mask.sum()


def test_the_mask_of_a_polygon_has_what_lies_within_and_its_outline():
    expected = np.zeros((6, 8), bool)
    expected[1:5, 2:7] = True
    assert np.array_equal(polygon_mask(((2, 1), (6, 1), (6, 4), (2, 4)), (0, 0, 8, 6)), expected)
    line = polygon_mask(((0, 3), (7, 3), (3, 3)), (0, 0, 8, 6))
    assert line[3].all() and line.sum() == 8


def test_pictures_need_not_be_read_to_know_that_a_request_is_none(toy: TOY):
    write_png(Path("pictures/good-1.png"), np.zeros((2, 2, 3), np.uint8))
    assert len(placed(toy, BOX)) == 3, "the size is that of the record"


def test_a_place_where_a_person_painted_that_no_defect_goes_is_refused(toy: TOY):
    samples, boxes = toy
    picture = np.full((120, 160, 3), 255, np.uint8)
    picture[:32] = 0
    regions = RegionMap("regions.png", write_png(Path("regions.png"), picture))
    painted = [replace(sample, regions=regions) for sample in samples], boxes
    assert problems(painted, BOX) == [
        f"{REQUESTS.path}, line 2: box 20 30 44 40: lies where regions.png lets no defect be placed"
    ]
    assert len(placed(painted, BOX.replace("20 30 44 40", "20 32 44 42"))) == 3
