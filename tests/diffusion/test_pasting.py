"""What is painted into a window changes the picture inside of its mask alone."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib.core.geometry import Window, box_mask, window_around
from lib.diffusion.pasting import apply_change, defect_changes, seamless


@st.composite
def compositions(draw: st.DrawFn) -> tuple[np.ndarray, Window, tuple[int, int, int, int]]:
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
    normal = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return normal, window_around(box, (height, width), draw(st.floats(1, 4)), draw(st.integers(1, 64))), box


@settings(max_examples=60)
@given(compositions(), st.integers(0, 4), st.floats(1, 255))
def test_outside_of_the_box_any_change_leaves_every_bit(case: tuple, feather: int, strength: float):
    normal, window, box = case
    change = np.random.default_rng(0).normal(0, strength, (16, 16, 3)).astype(np.float32)
    result = apply_change(normal, window, change, box_mask(box, *normal.shape[1::-1]), feather)
    outside = ~box_mask(box, *normal.shape[1::-1])
    assert result.dtype == np.uint8 and np.array_equal(result[outside], normal[outside])


@settings(max_examples=30)
@given(compositions(), st.integers(0, 4))
def test_no_change_is_the_normal_picture(case: tuple, feather: int):
    normal, window, box = case
    inside = box_mask(box, *normal.shape[1::-1])
    assert np.array_equal(apply_change(normal, window, np.zeros((16, 16, 3), np.float32), inside, feather), normal)


@settings(max_examples=30)
@given(compositions(), st.integers(-255, 255))
def test_an_even_change_is_added_inside_of_the_box(case: tuple, amount: int):
    normal, window, box = case
    inside = box_mask(box, *normal.shape[1::-1])
    result = apply_change(normal, window, np.full((16, 16, 3), amount, np.float32), inside, 0)
    assert np.array_equal(result[inside], np.clip(normal[inside].astype(int) + amount, 0, 255))


def test_a_change_lands_where_it_was_painted_in_a_window_that_reaches_over_the_border():
    normal = np.full((20, 60, 3), 100, np.uint8)
    window = window_around((0, 0, 30, 20), (20, 60), 2, 16)
    assert window == Window(0, -20, 60)
    change = np.zeros((60, 60, 3), np.float32)
    change[25, 7] = 50  # row 25 of the window is row 5 of the picture
    result = apply_change(normal, window, change, box_mask((0, 0, 30, 20), 60, 20), 0)
    assert np.argwhere((result != 100).any(axis=2)).tolist() == [[5, 7]]


GREYS = hnp.arrays(np.float32, (4, 4, 3), elements=st.integers(0, 255).map(float))


@settings(max_examples=60)
@given(GREYS, GREYS, GREYS)
def test_what_a_defect_changes_lies_between_all_that_differs_and_what_asking_for_it_changes(painted, ground, flawless):
    change = defect_changes(painted, ground, flawless)
    ends = np.stack([painted - ground, painted - flawless])
    assert (change >= ends.min(axis=0) - 1e-3).all() and (change <= ends.max(axis=0) + 1e-3).all()
    np.testing.assert_array_equal(defect_changes(painted, ground), painted - ground)
    np.testing.assert_allclose(defect_changes(painted, ground, ground), painted - ground, atol=1e-4)
    np.testing.assert_allclose(defect_changes(flawless, ground, flawless), np.zeros_like(ground), atol=1e-4)


def test_true_ground_shows_through_a_stain_not_through_what_is_black_or_white():
    ground = np.float32([80, 120, 160]).reshape(1, 3, 1) * np.ones((1, 1, 3), np.float32)
    repainted = ground[:, ::-1]  # another realisation of the same texture
    for told, painted, contrast in (
        ("stain", repainted / 2, 0.5),
        ("hole", 0 * ground, 0),
        ("light", ground * 0 + 255, 0),
    ):
        result = ground + defect_changes(painted, ground, repainted)
        assert np.ptp(result[..., 0]) == pytest.approx(contrast * 80, abs=2), told
        assert (np.argsort(result[0, :, 0]) == [0, 1, 2]).all() or contrast == 0, told


ROWS, COLUMNS = np.mgrid[:48, :48].astype(float)
REGION = (ROWS >= 8) & (ROWS < 30) & (COLUMNS >= 6) & (COLUMNS < 41)
BUMP = np.exp(-((ROWS - 19) ** 2 + (COLUMNS - 24) ** 2) / 12)[..., None] * [40, -20, 5]


@pytest.mark.parametrize("drift", [7 + 0 * ROWS, ROWS - 2 * COLUMNS, ROWS * COLUMNS / 9, (ROWS**2 - COLUMNS**2) / 50])
def test_of_a_change_a_harmonic_drift_is_taken_out_and_the_rest_stays(drift: np.ndarray):
    corrected = seamless(BUMP + drift[..., None], REGION, Window(0, 0, 48), (60, 60))
    np.testing.assert_allclose(corrected, BUMP * REGION[..., None], atol=0.01)  # the bump is not quite 0 on the rim


def test_a_seamless_change_is_0_along_the_rim_and_outside_whatever_was_painted():
    painted = np.random.default_rng(0).normal(0, 40, (*REGION.shape, 3))
    disc = (ROWS - 19) ** 2 + (COLUMNS - 24) ** 2 < 150
    corrected = seamless(painted, disc, Window(5, 5, 96), (200, 200))
    inner = cv2.erode(disc.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > 0
    assert not corrected[~inner].any() and np.abs(corrected[inner]).mean() > 10


def test_where_the_region_ends_with_the_picture_a_change_may_reach_its_border():
    picture = COLUMNS >= 20
    corrected = seamless(BUMP + 7, REGION, Window(-40, 10, 96), (300, 300))
    np.testing.assert_allclose(corrected, BUMP * (REGION & picture)[..., None], atol=0.01)
    assert np.abs(corrected[19, 20]).max() > 5
    without_rim = seamless(BUMP + 7, np.ones(REGION.shape, bool), Window(-6, -8, 48), (22, 35))
    np.testing.assert_allclose(without_rim, (BUMP + 7) * REGION[..., None], rtol=1e-6)
