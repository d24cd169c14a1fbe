"""Alarms: pieces that count, the level of a picture, and thresholds for a rate of false alarms."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib.alarms import alarm_level, marked, refuse_small, threshold_for
from lib.core.errors import UserError

MAPS = arrays(np.float32, (9, 11), elements=st.sampled_from([np.float32(v) for v in np.linspace(0, 1, 7)]))


@given(scores=MAPS, min_area=st.integers(1, 99))
def test_the_level_is_the_highest_threshold_with_a_piece_that_counts(scores, min_area):
    level = alarm_level(scores, min_area)
    assert marked(scores, level, min_area).any()
    above = float(np.nextafter(np.float32(level), np.float32(np.inf)))
    assert not marked(scores, above, min_area).any()


def test_a_map_of_fewer_pixels_than_count_has_no_level():
    with pytest.raises(ValueError, match="4 pixels has no piece of 5"):
        alarm_level(np.ones((2, 2), np.float32), 5)
    refuse_small(4, 4, "--min-area", "a.png")
    with pytest.raises(UserError, match=r"^--min-area: 5 is more than the 4 pixels of a\.png"):
        refuse_small(4, 5, "--min-area", "a.png")


@given(scores=MAPS, threshold=st.sampled_from([0.3, 0.5, 0.9]), min_area=st.integers(1, 20))
def test_pieces_are_kept_whole_or_not_at_all(scores, threshold, min_area):
    mask, kept = scores >= threshold, marked(scores, threshold, min_area)
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
