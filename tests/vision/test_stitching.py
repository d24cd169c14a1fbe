"""Boxes of tiles as boxes of the picture: nothing twice, cut ones rejoined, and no guess stretches a sure box."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.geometry import Window
from lib.metrics.boxes import ScoredBox
from lib.vision.stitching import stitched
from lib.vision.tiles import tiles

SHAPE = (100, 160)
LEFT, RIGHT = Window(0, 0, 100), Window(60, 0, 100)  # 40 px of them are seen by both
SIZES = st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(1, 20), st.integers(1, 20))


def stitch(left: list[tuple], right: list[tuple], most_iou: float = 0.5) -> list[tuple]:
    found = [[ScoredBox(tuple(box), score) for *box, score in of_tile] for of_tile in (left, right)]
    return [(*one.box, one.score) for one in stitched(found, [LEFT, RIGHT], SHAPE, most_iou)]


def seen(box: tuple[int, int, int, int], view: Window) -> tuple[int, int, int, int] | None:
    """What a view shows of a box."""
    x0, y0 = max(box[0], view.x0), max(box[1], view.y0)
    x1, y1 = min(box[2], view.x0 + view.side), min(box[3], view.y0 + view.side)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def test_a_defect_that_both_tiles_see_whole_has_the_box_of_the_surer_one():
    assert stitch([(70, 10, 90, 30, 0.6)], [(71, 10, 91, 30, 0.9)]) == [(71, 10, 91, 30, 0.9)]


@pytest.mark.parametrize("surer", ["whole", "part"])
def test_a_part_of_a_defect_that_the_other_tile_sees_whole_is_no_box_of_its_own(surer: str):
    whole, part = (0.9, 0.6) if surer == "whole" else (0.6, 0.9)
    assert stitch([(70, 10, 100, 20, part)], [(70, 10, 130, 20, whole)]) == [(70, 10, 130, 20, 0.9)]


def test_a_crack_that_every_tile_cuts_is_one_box():
    assert stitch([(20, 10, 100, 20, 0.7)], [(60, 11, 140, 20, 0.8)]) == [(20, 10, 140, 20, 0.8)]
    views = [Window(x, 0, 60) for x in (0, 50, 100)]
    crack = [ScoredBox((10, 5, 60, 9), 0.5), ScoredBox((50, 5, 110, 9), 0.9), ScoredBox((100, 5, 150, 9), 0.6)]
    assert stitched([[one] for one in crack], views, (60, 160), 0.5) == [ScoredBox((10, 5, 150, 9), 0.9)]


def test_a_guess_does_not_stretch_a_sure_box():
    assert stitch([(20, 10, 100, 20, 0.9)], [(60, 10, 155, 20, 0.1)]) == [(20, 10, 100, 20, 0.9)]
    assert stitch([(65, 10, 95, 20, 0.9)], [(60, 10, 155, 20, 0.8)]) == [(65, 10, 95, 20, 0.9)], "it is whole"


def test_neighbours_stay_apart_and_the_surest_comes_first():
    left, right = [(0, 0, 20, 20, 0.3), (25, 0, 45, 20, 0.5)], [(110, 0, 130, 20, 0.9)]
    assert stitch(left, right) == [(110, 0, 130, 20, 0.9), (25, 0, 45, 20, 0.5), (0, 0, 20, 20, 0.3)]
    assert stitch([], []) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(20, 150), st.integers(20, 150), SIZES)
def test_one_defect_seen_in_tiles_of_any_number_is_one_box_of_its_own_size(height: int, width: int, box: tuple):
    """If it fits into what two tiles share, so that one of them sees it whole."""
    views = tiles((height, width), 32, 20)
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    defect = seen((x0, y0, x1, y1), Window(0, 0, min(height, width)))
    if defect is None:
        return
    found = [[ScoredBox(part, 0.5)] if (part := seen(defect, view)) else [] for view in views]
    assert stitched(found, views, (height, width), 0.5) == [ScoredBox(defect, 0.5)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SIZES, st.integers(0, 20)), max_size=12))
def test_within_one_tile_it_is_greedy_suppression(drawn: list):
    boxes = [ScoredBox((x, y, x + w, y + h), score / 20) for (x, y, w, h), score in drawn]

    def iou(one: ScoredBox, other: ScoredBox) -> float:
        a, b = np.array(one.box), np.array(other.box)
        shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
        return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)

    kept: list[ScoredBox] = []
    for one in sorted(boxes, key=lambda one: -one.score):
        if all(iou(one, other) <= 0.5 for other in kept):
            kept.append(one)
    assert stitched([boxes], [Window(0, 0, 100)], (100, 100), 0.5) == kept
