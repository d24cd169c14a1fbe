"""The gate accepts a visible defect of believable strength, and says why it refuses anything else."""

import numpy as np
import pytest

from lib.core.images import box_mask
from lib.core.params import Gate
from lib.gate import RealRange, judge, real_range, ring_contrast, thickness

SIDE, BOX = 64, (16, 16, 48, 48)
GATE = Gate(min_contrast=4.0, min_area=8, max_fill=0.85, outlier=3.0, max_thickness=2.0)
REAL = RealRange(contrast=15.0, area=60, thickness=9.0)
NORMAL = np.random.default_rng(0).integers(118, 138, (SIDE, SIDE, 3)).astype(np.uint8)


def disc(radius):
    y, x = np.indices((SIDE, SIDE))
    return (x - 32) ** 2 + (y - 32) ** 2 <= radius**2


def sample(mask, change):
    return np.where(mask[..., None], np.clip(NORMAL.astype(int) + change, 0, 255), NORMAL).astype(np.uint8)


def verdict(image, mask, normal=NORMAL):
    return judge(image, normal, mask, BOX, GATE, REAL)


def test_a_clear_defect_is_accepted():
    scores, accepted, reason = verdict(sample(disc(8), 40), disc(8))
    assert accepted and reason is None
    assert scores["area"] == disc(8).sum()
    assert scores["fill"] == pytest.approx(disc(8).sum() / 32**2)
    assert scores["outside"] == 0 and scores["clipped"] == 0
    assert scores["contrast"] == pytest.approx(ring_contrast(sample(disc(8), 40), disc(8)), abs=2)


@pytest.mark.parametrize(
    ("radius", "change"), [(8, 3), (1, 60), (None, 0)], ids=["too faint", "too small", "empty mask"]
)
def test_a_defect_that_nobody_sees_is_refused(radius, change):
    mask = np.zeros((SIDE, SIDE), dtype=bool) if radius is None else disc(radius)
    assert verdict(sample(mask, change), mask)[1:] == (False, "no visible change")


def test_a_box_that_changed_as_a_whole_is_refused():
    whole = box_mask(BOX, SIDE, SIDE)
    assert verdict(sample(whole, 40), whole)[1:] == (False, "the whole box changed")


@pytest.mark.parametrize("value", [0, 255], ids=["black", "burnt out"])
def test_a_blank_output_is_refused(value):
    whole = box_mask(BOX, SIDE, SIDE)
    image = np.where(whole[..., None], np.uint8(value), NORMAL)
    assert verdict(image, whole)[1:] == (False, "blank output")


def test_a_single_pixel_changed_outside_of_the_box_is_refused():
    image = sample(disc(8), 40)
    image[2, 3, 1] += 1
    scores, *rest = verdict(image, disc(8))
    assert scores["outside"] == 1 and rest == [False, "changed outside of the box"]


def test_a_defect_far_stronger_than_all_real_ones_is_refused():
    image = np.where(disc(8)[..., None], np.uint8([255, 0, 255]), NORMAL)
    scores, *rest = verdict(image, disc(8))
    assert scores["strength"] > 3 and rest == [False, "beyond the range of real defects"]


def test_a_speck_far_smaller_than_all_real_defects_is_refused():
    scores, *rest = verdict(sample(disc(2), 40), disc(2))
    assert scores["size"] == pytest.approx(13 / 60) and rest == [False, "beyond the range of real defects"]


def test_a_smudge_in_place_of_a_line_is_refused():
    line = np.zeros((SIDE, SIDE), dtype=bool)
    line[30:34, 18:46] = True
    assert verdict(sample(line, 40), line)[1]
    scores, *rest = verdict(sample(disc(10), 40), disc(10))
    assert scores["thickness"] > 2 and rest == [False, "thicker than real defects"]


@pytest.mark.parametrize("radius", [1, 5, 9])
def test_thickness_is_that_of_the_widest_place(radius):
    bar = np.zeros((SIDE, SIDE), dtype=bool)
    bar[31:34, 2:62] = True
    assert thickness(bar) == pytest.approx(4, abs=0.5), "3 px and half of the pixel on either side"
    assert thickness(bar | disc(radius)) == pytest.approx(max(4, 2 * radius + 1), rel=0.15)
    assert thickness(np.ones((8, 8), dtype=bool)) == pytest.approx(8, abs=0.5), "at the picture's edge, too"
    assert thickness(np.zeros((8, 8), dtype=bool)) == 0


def test_the_range_of_real_defects_is_set_by_the_strongest_and_lets_them_all_pass():
    masks = [disc(8), disc(5), disc(10), np.zeros((SIDE, SIDE), dtype=bool)]
    images = [sample(mask, change) for mask, change in zip(masks, (20, 60, -30, 0), strict=True)]
    real = real_range(images, masks, [int(mask.sum()) for mask in masks[:3]])
    assert real.area == disc(5).sum() and real.thickness == thickness(disc(10))
    assert real.contrast == pytest.approx(ring_contrast(images[1], masks[1]))
    for image, mask in zip(images[:3], masks[:3], strict=True):
        scores, accepted, _ = judge(image, NORMAL, mask, BOX, GATE, real)
        assert accepted and scores["strength"] <= 1


def test_real_defects_that_differ_by_texture_alone_do_not_close_the_gate():
    assert judge(sample(disc(8), 20), NORMAL, disc(8), BOX, GATE, RealRange(0.0, 60, 17.0))[1]


def test_a_mask_without_surroundings_has_no_contrast():
    assert ring_contrast(NORMAL, np.ones((SIDE, SIDE), dtype=bool)) == 0
    assert ring_contrast(NORMAL, np.zeros((SIDE, SIDE), dtype=bool)) == 0


def test_without_a_real_defect_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match="none with a mask"):
        real_range([NORMAL], [np.zeros((SIDE, SIDE), dtype=bool)], [])
