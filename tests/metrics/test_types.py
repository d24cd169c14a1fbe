"""Types told apart: IoU by definition, pixel by pixel, and the type of whole pictures."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lib.metrics.types import overlaps, picture_type, type_ious

MAPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(st.lists(MAPS, min_size=1, max_size=4))
def test_iou_is_that_of_all_pixels_of_all_pictures(pictures):
    maps = [np.array(pairs, np.uint8).T[:, None] for pairs in pictures]
    ious = type_ious([overlaps(found, truth, 3) for found, truth in maps])
    found, truth = np.concatenate(maps, axis=2)
    for number, iou in enumerate(ious, start=1):
        either = (found == number) | (truth == number)
        expected = ((found == number) & (truth == number)).sum() / either.sum() if either.any() else np.nan
        np.testing.assert_equal(iou, expected)


def test_a_picture_is_of_the_type_whose_pixels_score_highest_together():
    scores, labels = np.zeros((10, 20), np.float32), np.full((10, 20), 3, np.uint8)
    scores[0, :4], labels[0, :4] = 0.9, 1
    scores[5, :5], labels[5, :5] = 0.8, 2
    assert picture_type(scores, labels, share=20) == 2, "5 x 0.8 beats 4 x 0.9 among the 10 highest pixels"
    assert picture_type(scores, labels, share=50) == 1, "of the 4 highest pixels all are of type 1"
    assert picture_type(scores, labels, share=1000) == 1, "one pixel at least"


def test_where_nothing_is_found_at_all_the_picture_is_of_the_first_type():
    assert picture_type(np.zeros((4, 5), np.float32), np.full((4, 5), 2, np.uint8), share=20) == 1
    assert picture_type(np.zeros((4, 5), np.float32), np.full((4, 5), 1, np.uint8), share=20) == 1
