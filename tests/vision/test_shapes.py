"""Shapes of holes: real masks stay in one piece however they are bent and resized; pieces of a line are the line."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.geometry import box_mask
from lib.vision import shapes


def line(width: int, height: int, thickness: int = 1) -> np.ndarray:
    canvas = np.zeros((height, width), np.uint8)
    margin = min(width, height) // 4 + 1
    cv2.line(canvas, (margin, margin), (width - margin, height - margin), 1, thickness)
    return canvas > 0


def components(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


SIZES = st.integers(12, 120)
FACTORS = st.floats(0.5, 2)  # the jitter of placements is 0.15


@settings(max_examples=300)
@given(SIZES, SIZES, FACTORS, FACTORS, st.integers(0, 3), st.integers(0, 2**31))
def test_a_bent_line_stays_one_piece_in_its_box(w: int, h: int, fx: float, fy: float, growth: int, seed: int):
    width, height = round(w * fx), round(h * fy)
    mask = shapes.bent(line(w, h), (width, height), growth, np.random.default_rng(seed))
    assert mask.shape == (height, width) and mask.dtype == bool
    assert components(mask) == 1


@settings(max_examples=40)
@given(SIZES, SIZES, st.integers(0, 2**31))
def test_growth_makes_holes_larger(width: int, height: int, seed: int):
    less, more = (shapes.bent(line(40, 40), (width, height), growth, np.random.default_rng(seed)) for growth in (1, 3))
    assert (less <= more).all() and less.sum() < more.sum()


def test_a_bent_mask_keeps_about_its_shape_and_depends_on_its_seed():
    mask = line(60, 40, 3)
    upright = [mask[::up, ::across] for up in (1, -1) for across in (1, -1)]
    overlaps = []
    for seed in range(20):
        result = shapes.bent(mask, (60, 40), 1, np.random.default_rng(seed))
        assert np.array_equal(result, shapes.bent(mask, (60, 40), 1, np.random.default_rng(seed)))
        grown = [shapes.grown(one, 4) for one in upright]
        overlaps.append(max((result & one).sum() / result.sum() for one in grown))
    assert np.median(overlaps) > 0.8
    assert not np.array_equal(*(shapes.bent(mask, (60, 40), 1, np.random.default_rng(seed)) for seed in (0, 1)))


@pytest.mark.parametrize(("borders", "axis", "end"), [(("bottom",), 0, -1), (("left",), 1, 0)])
def test_a_shape_that_reaches_a_border_reaches_it_again(borders, axis, end):
    mask = box_mask((0, 12, 24, 30), 40, 30)  # from the lower left corner
    for seed in range(30):
        result = shapes.bent(mask, (60, 48), 1, np.random.default_rng(seed), borders)
        assert np.take(result, end, axis).mean() > 0.4 and np.take(result, -1 - end, axis).mean() < 0.1
    turned = [shapes.bent(mask, (60, 48), 1, np.random.default_rng(seed)) for seed in range(30)]
    assert min(np.take(one, end, axis).mean() for one in turned) < 0.1, "else it is flipped away from it"


def test_a_band_between_two_borders_stays_one():
    mask = box_mask((0, 10, 40, 20), 40, 30)
    for seed in range(30):
        result = shapes.bent(mask, (90, 60), 1, np.random.default_rng(seed), ("left", "right"))
        assert result.any(axis=0).all()


def test_an_empty_mask_stays_empty():
    assert not shapes.bent(np.zeros((9, 9), bool), (20, 30), 3, np.random.default_rng(0)).any()


@settings(max_examples=60)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 9), st.integers(0, 2**31))
def test_a_drawn_shape_lies_in_its_box_and_is_never_empty(width: int, height: int, thickness: int, seed: int):
    like = box_mask((0, 0, 20, thickness), 20, 12)
    mask = shapes.drawn((width, height), like, np.random.default_rng(seed))
    assert mask.shape == (height, width) and mask.any()


def test_a_drawn_stroke_is_as_thick_as_its_model_and_a_thick_model_gives_a_blob():
    stroke = shapes.drawn((60, 60), box_mask((0, 0, 20, 3), 20, 20), np.random.default_rng(0))
    assert components(stroke) == 1 and shapes.is_line(stroke)
    blob = shapes.drawn((60, 60), box_mask((0, 0, 40, 40), 40, 40), np.random.default_rng(0))
    assert components(blob) == 1 and not shapes.is_line(blob) and blob.mean() > 0.1


@settings(max_examples=60)
@given(st.integers(10, 200), st.integers(8, 96), st.integers(0, 199), st.integers(0, 199))
def test_no_line_is_lost_when_a_mask_is_resized(extent: int, side: int, row: int, column: int):
    mask = np.zeros((extent, extent), bool)
    mask[row % extent] = mask[:, column % extent] = True
    small = shapes.covering(mask, side)
    assert small.shape == (side, side)
    assert small.all(axis=1).any() and small.all(axis=0).any()


def test_a_mask_keeps_its_share_when_it_is_resized():
    mask = box_mask((20, 30, 60, 70), 100, 100)
    assert shapes.covering(mask, 50).mean() == pytest.approx(0.16)
    assert shapes.covering(mask, 200).mean() == pytest.approx(0.16)


@settings(max_examples=60)
@given(st.integers(10, 250), st.integers(10, 250), st.integers(1, 4), st.integers(20, 100))
def test_pieces_are_the_line_and_each_is_short(width: int, height: int, thickness: int, longest: int):
    mask = line(width, height, thickness)
    split = shapes.pieces(mask, longest, 8)
    assert np.array_equal(np.any(split, axis=0), mask)
    if len(split) > 1:
        for piece in split:
            _, _, w, h = cv2.boundingRect(piece.astype(np.uint8))
            assert max(w, h) <= longest + 6
    for one, other in itertools.pairwise(split):
        assert (one & other).any(), "they overlap"


@pytest.mark.parametrize("overlap", [31, 32, 40, 63.9, 64, 65, 100, 500])
def test_pieces_share_at_most_half_of_each_however_much_is_asked_for(overlap: float):
    mask = box_mask((5, 50, 245, 52), 250, 100)
    split = shapes.pieces(mask, 64, overlap)
    assert np.array_equal(np.any(split, axis=0), mask) and 4 <= len(split) <= 8
    assert all(np.ptp(np.nonzero(piece)[1]) <= 64 + 6 for piece in split)
    assert all((one & other).any() for one, other in itertools.pairwise(split))


def test_a_blob_and_a_short_line_are_not_split():
    for mask in (box_mask((10, 10, 110, 100), 128, 128), line(30, 30), np.zeros((9, 9), bool)):
        [piece] = shapes.pieces(mask, 60, 8)
        assert np.array_equal(piece, mask)


def test_pieces_go_along_the_line_in_its_order():
    split = shapes.pieces(box_mask((5, 50, 245, 52), 250, 100), 74, 8)
    starts = [int(np.nonzero(piece)[1].min()) for piece in split]
    assert len(split) >= 3 and starts in (sorted(starts), sorted(starts, reverse=True))
