"""Boxes of masks and maps, COCO's average precision of them again in plain loops, painted boxes."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.metrics import boxes
from lib.metrics.boxes import (
    ScoredBox,
    box_precision,
    component_boxes,
    painted,
    painted_labels,
    truth_boxes,
    typed_precision,
)

CORNERS = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
SCORED = st.lists(st.builds(ScoredBox, CORNERS, st.integers(0, 20).map(lambda n: n / 20)), max_size=4)
PICTURES = st.lists(st.tuples(SCORED, st.lists(CORNERS, max_size=3)), min_size=1, max_size=4)


def iou(one, other) -> float:
    wide, high = (min(one[n + 2], other[n + 2]) - max(one[n], other[n]) for n in (0, 1))
    shared = max(wide, 0) * max(high, 0)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


def plain_precision(found, truth, least: float) -> float:
    """Lin et al. 2014 in loops: the surest box first takes the unclaimed truth that it overlaps most."""
    answers = sorted(
        ((n, one) for n, of_picture in enumerate(found) for one in of_picture), key=lambda pair: -pair[1].score
    )
    claimed, hits = set(), []
    for n, one in answers:
        best = None
        for number, box in enumerate(truth[n]):
            if (n, number) not in claimed and iou(one.box, box) >= (least if best is None else iou(one.box, best[1])):
                best = (number, box)
        hits.append(best is not None)
        if best:
            claimed.add((n, best[0]))
    count = sum(map(len, truth))
    points = [(sum(hits[: k + 1]) / count, sum(hits[: k + 1]) / (k + 1)) for k in range(len(hits))]
    return float(
        np.mean([max((p for r, p in points if r >= level - 1e-12), default=0) for level in np.linspace(0, 1, 101)])
    )


@settings(max_examples=150)
@given(PICTURES)
def test_it_equals_the_definition_in_plain_loops(pictures):
    found, truth = [list(one) for one, _ in pictures], [list(boxes) for _, boxes in pictures]
    ap50, ap = box_precision(found, truth)
    if not any(truth):
        assert math.isnan(ap50) and math.isnan(ap)
        return
    by_iou = [plain_precision(found, truth, least) for least in np.linspace(0.5, 0.95, 10)]
    assert ap50 == pytest.approx(by_iou[0], abs=1e-9) and ap == pytest.approx(np.mean(by_iou), abs=1e-9)


@settings(max_examples=60)
@given(st.lists(st.lists(CORNERS, max_size=5), min_size=1, max_size=3))
def test_a_map_that_equals_the_mask_is_perfect_whatever_its_pieces(pictures):
    masks = []
    for rectangles in pictures:
        mask = np.zeros((24, 24), bool)
        for x0, y0, x1, y1 in rectangles:
            mask[y0:y1, x0:x1] ^= True  # leaves fragments and holes
        masks.append(mask)
    found = [component_boxes(mask.astype(np.float32), 0.5) for mask in masks]
    truth = [truth_boxes(mask) for mask in masks]
    assert [[one.box for one in of_picture] for of_picture in found] == truth
    if any(truth):
        assert box_precision(found, truth) == (1, 1)


def test_specks_get_no_box_unless_there_is_nothing_else():
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = True
    assert truth_boxes(mask) == [(0, 0, 1, 1)]
    mask[10:13, 10:15] = True
    assert truth_boxes(mask) == [(10, 10, 15, 13)]
    assert truth_boxes(np.zeros((4, 4), bool)) == [] == component_boxes(np.zeros((4, 4), np.float32), 0.5)


def test_a_large_piece_is_surer_than_a_speck_that_shines_as_bright():
    scores = np.zeros((20, 20), np.float32)
    scores[2:10, 2:10], scores[15:17, 15:17] = 1, 1
    large, small = component_boxes(scores, 0.5)
    assert (large.box, small.box) == ((2, 2, 10, 10), (15, 15, 17, 17))
    assert large.score == 32 and small.score == 2
    assert [one.score for one in component_boxes(scores * 3 - 1, 0.5)] == [64 * 1.5, 4 * 1.5], "any range will do"


def test_an_alarm_on_a_good_picture_costs_precision_if_it_is_surer_than_what_is_found():
    hit, truth = ScoredBox((0, 0, 4, 4), 0.5), [[(0, 0, 4, 4)], []]
    assert box_precision([[hit], [ScoredBox((0, 0, 4, 4), 0.4)]], truth)[0] == 1
    assert box_precision([[hit], [ScoredBox((0, 0, 4, 4), 0.6)]], truth)[0] == 0.5
    assert box_precision([[], []], truth) == (0, 0)


def test_of_a_picture_the_hundred_surest_boxes_count():
    hit, alarms = ScoredBox((0, 0, 4, 4), 0.1), [ScoredBox((20, 20, 24, 24), 0.5)] * 100
    assert box_precision([[hit, *alarms]], [[(0, 0, 4, 4)]])[0] == 0
    assert box_precision([[hit, *alarms[1:]]], [[(0, 0, 4, 4)]])[0] == pytest.approx(1 / 100)


def test_a_box_that_is_half_as_wide_counts_at_half_and_at_no_more():
    found = [[ScoredBox((0, 0, 2, 4), 1.0)]]
    assert box_precision(found, [[(0, 0, 4, 4)]]) == (1, 0.1)


def test_painting_keeps_the_highest_score_and_the_picture_s_border():
    boxes_ = [ScoredBox((-3, -3, 2.4, 2.6), 0.5), ScoredBox((1, 1, 9, 9), 0.25), ScoredBox((5, 5, 5.2, 5.2), 0.9)]
    scores = painted(boxes_, (4, 6, 3))
    assert scores.shape == (4, 6) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores[0], [0.5, 0.5, 0, 0, 0, 0])
    np.testing.assert_array_equal(scores[2], [0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    assert (painted([], (2, 2)) == 0).all()


def test_the_examples_of_its_docstrings_hold():
    assert doctest.testmod(boxes).failed == 0


TYPED = st.lists(st.builds(ScoredBox, CORNERS, st.integers(0, 20).map(lambda n: n / 20), st.integers(1, 3)), max_size=5)


@settings(max_examples=100)
@given(st.lists(st.tuples(TYPED, st.lists(st.tuples(CORNERS, st.integers(1, 3)), max_size=4)), min_size=1, max_size=3))
def test_with_types_it_is_the_mean_over_the_types_that_occur(pictures):
    found = [list(one) for one, _ in pictures]
    truth = [[[box for box, of_type in boxes if of_type == label] for _, boxes in pictures] for label in (1, 2, 3)]
    ap50, _ = typed_precision(found, truth)
    expected = []
    for label in (1, 2, 3):
        if any(truth[label - 1]):
            of_type = [[one for one in boxes if one.label == label] for boxes in found]
            expected.append(plain_precision(of_type, truth[label - 1], 0.5))
    if not expected:
        assert math.isnan(ap50)
        return
    assert ap50 == pytest.approx(np.mean(expected), abs=1e-9)


def test_a_box_under_the_name_of_another_type_is_a_false_alarm_and_a_miss():
    box = (0.0, 0.0, 4.0, 4.0)
    right, wrong = [[ScoredBox(box, 0.9, 2)]], [[ScoredBox(box, 0.9, 1)]]
    truth = [[[]], [[box]]]
    assert typed_precision(right, truth) == (1.0, 1.0) and typed_precision(wrong, truth) == (0.0, 0.0)
    assert box_precision(wrong, truth[1]) == (1.0, 1.0), "types are not looked at there"


def test_a_map_that_equals_the_masks_of_touching_types_finds_every_box_exactly():
    labels = np.zeros((20, 30), np.uint8)
    labels[4:10, 4:12], labels[4:10, 12:20], labels[14:18, 5:9] = 1, 2, 2
    truth = [[truth_boxes(labels == label)] for label in (1, 2)]
    scores = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
    found = component_boxes(scores, 0.5, np.maximum(labels, 1))
    assert typed_precision([found], truth) == (1.0, 1.0) and [one.label for one in found] == [1, 2, 2]
    assert found[0].score == pytest.approx(48 * 0.4)
    (whole, _) = component_boxes(scores, 0.5)
    assert whole.label == 0 and whole.box == (4, 4, 20, 10), "without types the two are one"


def test_a_threshold_between_two_floats_marks_what_the_map_marks():
    scores = np.full((8, 8), 0.7, np.float32)  # a little less than 0.7
    (box,) = component_boxes(scores, 0.7, np.ones((8, 8), np.uint8))
    assert box.box == (0, 0, 8, 8) and box.label == 1


@settings(max_examples=100)
@given(TYPED)
def test_labels_are_painted_as_scores_are(boxes):
    scores, labels = painted(boxes, (20, 20)), painted_labels(boxes, (20, 20))
    for y, x in np.ndindex(20, 20):
        inside = [one for one in boxes if one.box[0] <= x < one.box[2] and one.box[1] <= y < one.box[3]]
        best = max(inside, key=lambda one: one.score, default=None)
        assert labels[y, x] == (best.label if best else 1)
        assert scores[y, x] == np.float32(best.score if best else 0)
