"""Training views of real defects: what varies, and that the defect stays in view."""

import numpy as np
import pytest

from lib.diffusion.views import flipped, flips_of, random_window


def test_four_variants_in_a_row_have_four_orientations_and_later_ones_repeat_them():
    assert len({flips_of(variant) for variant in range(4)}) == 4
    assert [flips_of(variant) for variant in range(4, 8)] == [flips_of(variant) for variant in range(4)]


def test_a_view_is_mirrored_left_to_right_and_upside_down():
    image = np.arange(6).reshape(2, 3)
    assert flipped(image, (True, False)).tolist() == [[2, 1, 0], [5, 4, 3]]
    assert flipped(image, (False, True)).tolist() == [[3, 4, 5], [0, 1, 2]]
    assert flipped(image, (True, True)).flags.c_contiguous


@pytest.mark.parametrize("box", [(40, 30, 60, 44), (0, 0, 12, 9), (5, 20, 60, 30)])
def test_random_windows_differ_and_hold_the_whole_box(box: tuple[int, int, int, int]):
    windows = [random_window(box, (80, 100, 3), 1.3, 16, np.random.default_rng(seed)) for seed in range(30)]
    assert len(set(windows)) > 1
    for window in windows:
        x0, y0, x1, y1 = window.inside(box)
        assert x0 >= 0 and y0 >= 0 and x1 <= window.side and y1 <= window.side
