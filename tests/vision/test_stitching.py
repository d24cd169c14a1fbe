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


@settings(max_examples=200)
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


@settings(max_examples=100)
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


def test_a_defect_has_the_type_of_its_surest_box():
    found = [[ScoredBox((70, 10, 90, 30), 0.6, 1)], [ScoredBox((71, 10, 91, 30), 0.9, 2)]]
    assert stitched(found, [LEFT, RIGHT], SHAPE, 0.5) == [ScoredBox((71, 10, 91, 30), 0.9, 2)]
    cut = [[ScoredBox((20, 10, 100, 20), 0.7, 1)], [ScoredBox((60, 11, 140, 20), 0.8, 2)]]
    assert stitched(cut, [LEFT, RIGHT], SHAPE, 0.5) == [ScoredBox((20, 10, 140, 20), 0.8, 2)]


def test_a_box_of_a_tile_that_has_given_one_already_joins_no_more():
    cut, whole = (20, 10, 100, 20, 0.9), (60, 10, 140, 20, 0.8)
    assert stitch([cut], [whole, (60, 10, 158, 20, 0.7)], 0.4) == [(20, 10, 140, 20, 0.9)]
    ends = [(60, 10, 159, 20, 0.8), (60, 10, 160, 20, 0.7)]  # the first is cut, too, by the border of its own view
    views = [Window(0, 0, 100), Window(60, 0, 100), Window(120, 0, 100)]
    found = [[ScoredBox(cut[:4], 0.9)], [ScoredBox(tuple(box), score) for *box, score in ends], []]
    assert stitched(found, views, (100, 220), 0.4) == [ScoredBox((20, 10, 159, 20), 0.9)]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1), SIZES, st.integers(1, 9)), max_size=14))
def test_a_box_joins_the_first_group_of_which_a_member_is_the_same_defect(drawn: list):
    """Groups in plain loops, from the rule of `stitched` alone."""
    views = [LEFT, RIGHT]
    found: list[list[ScoredBox]] = [[], []]
    for tile, (x, y, wide, high), score in drawn:
        view = views[tile]
        found[tile].append(ScoredBox((view.x0 + x, y, view.x0 + x + wide, y + high), score / 10))
    order = sorted(((one, n) for n in (0, 1) for one in found[n]), key=lambda pair: -pair[0].score)
    groups: list[dict] = []
    for one, n in order:
        group = next((g for g in groups if any(same(one, n, other, m, views) for other, m in g["members"])), None)
        if group is None:
            groups.append({"box": one.box, "score": one.score, "members": [(one, n)], "cut": cut(one.box, views[n])})
        elif group["cut"] and n not in {m for _, m in group["members"]} and one.score >= 0.5 * group["score"]:
            low, high = np.minimum(group["box"], one.box)[:2], np.maximum(group["box"], one.box)[2:]
            group.update(box=(*low, *high), cut=cut(one.box, views[n]))
            group["members"].append((one, n))
    assert stitched(found, views, SHAPE, 0.3) == [ScoredBox(tuple(g["box"]), g["score"]) for g in groups]


def same(one: ScoredBox, n: int, other: ScoredBox, m: int, views: list[Window]) -> bool:
    """IoU above 0.3 in what both views show."""
    shown = [seen(seen(box.box, views[n]) or (0, 0, 0, 0), views[m]) for box in (one, other)]
    if None in shown:
        return False
    a, b = shown
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - shared) > 0.3


def cut(box: tuple, view: Window) -> bool:
    """Whether it reaches a border of its view that is not the picture's."""
    return (view.x0 > 0 and box[0] <= view.x0 + 2) or (view.x0 + 100 < SHAPE[1] and box[2] >= view.x0 + 98)
