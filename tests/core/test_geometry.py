"""Masks of defects keep thin lines whole when they are resized."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.geometry import box_mask, resize, resize_defects, stay_defect


def pieces(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


@settings(max_examples=60)
@given(st.integers(0, 199), st.integers(0, 199), st.integers(20, 100), st.integers(1, 3))
def test_a_line_that_is_shrunk_stays_in_one_piece(start: int, end: int, side: int, thickness: int):
    mask = np.zeros((200, 200), np.uint8)
    cv2.line(mask, (0, start), (199, end), 1, thickness)
    assert pieces(resize_defects(mask > 0, side, side)) == 1


def test_a_scratch_of_two_pixels_is_shredded_by_the_nearest_pixel_and_not_by_its_share():
    mask = np.zeros((450, 450), np.uint8)
    cv2.line(mask, (60, 80), (380, 170), 1, 2)
    assert pieces(resize(mask > 0, 64, 64)) > 5
    assert pieces(resize_defects(mask > 0, 64, 64)) == 1


def test_a_pixel_is_defect_from_a_quarter_of_it_on_or_less_where_a_line_is_thin():
    quarters = np.array([[0.25, 0.24, 0.0, 1.0]], np.float32)
    assert stay_defect(quarters).tolist() == [[True, False, False, True]]
    thin = np.array([[0.125, 0.06, 0.04, 0.0]], np.float32)
    assert stay_defect(thin).tolist() == [[True, True, False, False]]
    assert not stay_defect(np.zeros((2, 2), np.float32)).any()


def test_a_mask_that_grows_is_as_it_was():
    mask = box_mask((0, 0, 1, 4), 8, 8)
    assert resize_defects(mask, 16, 16).sum() == 4 * mask.sum() and np.array_equal(resize_defects(mask, 8, 8), mask)


@pytest.mark.parametrize("size", [(4, 8), (8, 4)])
def test_width_and_height_are_not_swapped(size: tuple[int, int]):
    assert resize_defects(np.ones((8, 8), bool), *size).shape == size[::-1]
