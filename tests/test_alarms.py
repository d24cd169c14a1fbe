"""Alarms: pieces that count, the level of a picture, what is marked in it, and the choice of thresholds."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib.alarms import Decision, alarm_level, areas_within, balanced_threshold, pieces, refuse_small, threshold_for
from lib.core.errors import UserError

MAPS = arrays(np.float32, (9, 11), elements=st.sampled_from([np.float32(v) for v in np.linspace(0, 1, 7)]))


@given(scores=MAPS, min_area=st.integers(1, 99))
def test_the_level_is_the_highest_threshold_with_a_piece_that_counts(scores, min_area):
    level = alarm_level(scores, min_area)
    assert pieces(scores, level, min_area).any()
    above = float(np.nextafter(np.float32(level), np.float32(np.inf)))
    assert not pieces(scores, above, min_area).any()


def test_areas_reach_up_to_the_largest_piece_of_the_smallest_defect():
    def mask(*pieces: int) -> np.ndarray:
        rows = np.zeros((2 * len(pieces), 99), bool)
        for row, pixels in enumerate(pieces):
            rows[2 * row, :pixels] = True
        return rows

    assert areas_within([]) == areas_within([mask(3, 2, 3)]) == areas_within([mask(0)]) == (1,)
    assert areas_within([mask(90), mask(3, 17)]) == (1, 4, 16) and areas_within([mask(64)]) == (1, 4, 16, 64)
    assert areas_within([np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)]) == (1, 4), "pieces touch at corners"


def test_a_map_of_fewer_pixels_than_count_has_no_level():
    with pytest.raises(ValueError, match="4 pixels has no piece of 5"):
        alarm_level(np.ones((2, 2), np.float32), 5)
    refuse_small(4, 4, "--min-area", "a.png")
    with pytest.raises(UserError, match=r"^--min-area: 5 is more than the 4 pixels of a\.png"):
        refuse_small(4, 5, "--min-area", "a.png")


@given(scores=MAPS, threshold=st.sampled_from([0.3, 0.5, 0.9]), min_area=st.integers(1, 20))
def test_pieces_are_kept_whole_or_not_at_all(scores, threshold, min_area):
    mask, kept = scores >= threshold, pieces(scores, threshold, min_area)
    assert not (kept & ~mask).any()
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in np.unique(labels[mask]):
        piece = labels == label
        assert kept[piece].all() == (piece.sum() >= min_area) and kept[piece].all() == kept[piece].any()


@given(
    levels=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    rate=st.floats(0, 1),
)
def test_at_most_the_asked_share_of_good_pictures_alarms_and_a_lower_threshold_would_be_too_low(levels, rate):
    threshold = threshold_for(levels, rate)
    levels = np.array(levels, np.float32)
    assert (levels >= threshold).mean() <= rate + 1e-9
    if math.floor(rate * len(levels) + 1e-9) < len(levels):
        lower = np.nextafter(np.float32(threshold), np.float32(-np.inf))
        assert (levels >= lower).mean() > rate


def test_no_good_picture_is_no_ground_for_a_rate():
    with pytest.raises(ValueError, match="good pictures"):
        threshold_for([], 0.1)


THRESHOLDS = st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.7, 1.0, 1.5])


@given(scores=MAPS, threshold=THRESHOLDS, alarm_threshold=THRESHOLDS, min_area=st.integers(1, 30))
def test_marked_are_the_regions_that_hold_what_gives_an_alarm(scores, threshold, alarm_threshold, min_area):
    decision = Decision(threshold, alarm_threshold, min_area)
    alarms, expected = pieces(scores, alarm_threshold, min_area), np.zeros(scores.shape, bool)
    if threshold > alarm_threshold:
        certain = alarms & (scores >= np.float32(threshold))
        expected = certain if certain.any() else alarms
    else:
        _, regions = cv2.connectedComponents((scores >= threshold).astype(np.uint8), connectivity=8)
        for number in range(1, regions.max() + 1):
            expected |= (regions == number) & ((regions == number) & alarms).any()
    mask = decision.mask(scores)
    np.testing.assert_array_equal(mask, expected)
    assert mask.any() == alarms.any() == (alarm_level(scores, min_area) >= np.float32(alarm_threshold))
    assert (scores[mask] >= np.float32(decision.lowest)).all()


def test_of_equal_thresholds_both_are_one():
    scores = np.array([[0.9, 0.9, 0, 0.9], [0, 0, 0, 0]], np.float32)
    for min_area, marked in ((1, 3), (2, 2), (3, 0)):
        mask = Decision(0.5, 0.5, min_area).mask(scores)
        assert mask.sum() == marked and (mask == pieces(scores, 0.5, min_area)).all()


def test_a_certain_core_marks_its_whole_region_and_a_faint_speck_nothing():
    scores = np.zeros((12, 12), np.float32)
    scores[2:8, 2:8], scores[4, 4], scores[10, 10] = 0.5, 0.9, 0.5
    assert (Decision(0.4, 0.8).mask(scores) == (scores >= 0.4) & (np.arange(12) < 9)).all()
    assert not Decision(0.4, 0.95).mask(scores).any(), "no alarm, no marks"
    assert Decision(0.4, 0.8, 2).mask(scores).sum() == 0, "one certain pixel is no piece of two"


def test_where_alarms_come_early_masks_stay_tight_and_a_faint_alarm_is_marked_all_the_same():
    scores = np.zeros((12, 12), np.float32)
    scores[1:5, 1:5], scores[2:4, 2:4], scores[8:10, 8:10] = 0.3, 0.9, 0.3
    np.testing.assert_array_equal(Decision(0.8, 0.2).mask(scores), scores == np.float32(0.9))
    np.testing.assert_array_equal(Decision(0.95, 0.2).mask(scores), scores > 0)
    np.testing.assert_array_equal(Decision(0.95, 0.2, 5).mask(scores), (scores > 0) & (np.arange(12) < 6))


LEVELS_OF = st.lists(
    st.sampled_from([float(v) for v in np.linspace(0, 1, 9, dtype=np.float32)]), min_size=1, max_size=9
)


@given(defects=LEVELS_OF, good=LEVELS_OF)
def test_the_balanced_threshold_has_the_fewest_misses_and_false_alarms_in_shares(defects, good):
    threshold = balanced_threshold(defects, good)

    def errors(level: float) -> float:
        return float(np.mean(np.array(defects) < level) + np.mean(np.array(good) >= level))

    candidates = np.unique(defects + good)
    least = min(errors(level) for level in candidates)
    assert errors(threshold) == pytest.approx(least, abs=1e-12)
    lowest = min(level for level in candidates if errors(level) <= least + 1e-12)
    below = candidates[candidates < lowest]
    assert threshold == ((lowest + below[-1]) / 2 if below.size else lowest)


def test_a_balance_between_neighbouring_numbers_separates_them_and_needs_both_kinds():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    assert balanced_threshold([high], [low]) == high
    # Ten false alarms of a hundred good pictures are worse than one miss of twenty.
    defects, good = [0.5, *[0.9] * 19], [*[0.1] * 90, *[0.6] * 10]
    assert 0.6 < balanced_threshold(defects, good) < 0.9
    for pictures in (([], [0.5]), ([0.5], [])):
        with pytest.raises(ValueError, match="with and without defects"):
            balanced_threshold(*pictures)
