"""Masks are measured from the change: tight, inside the box, and from nothing but the change inside the box."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.geometry import box_mask
from lib.labels.masks import METHODS, cosine_rgb_otsu, measured_mask, only_what_changed

SIZE = (96, 112)  # height, width
BOX = (30, 20, 86, 76)
GREY = (128, 128, 128)


def flat(colour=GREY):
    return np.full((*SIZE, 3), colour, dtype=np.uint8)


def disc(x=58, y=48, radius=12):
    v, u = np.indices(SIZE)
    return (u - x) ** 2 + (v - y) ** 2 <= radius**2


def painted(picture, where, change):
    moved = picture.astype(np.float32) + np.where(where[..., None], np.float32(change), 0)
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def texture(seed, grain=1.2, amplitude=12.0):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32), (0, 0), grain)
    return np.repeat(np.clip(128 + amplitude * noise / noise.std(), 0, 255)[..., None], 3, axis=2).astype(np.uint8)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("change", [(60, -20, -20), (0, 25, 0), (-40, -40, -40), (30, 30, 30)])
@pytest.mark.parametrize("picture", [flat(), flat((200, 170, 90)), texture(0)], ids=["grey", "ochre", "textured"])
def test_a_blob_of_another_colour_or_brightness_is_recovered(picture, change):
    assert iou(measured_mask(painted(picture, disc(), change), picture, BOX), disc()) >= 0.9


def test_a_blob_is_recovered_through_the_blur_and_noise_of_an_autoencoder():
    rng = np.random.default_rng(0)

    def round_trip(picture):
        soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.9)
        return np.clip(soft + rng.normal(0, 2, soft.shape), 0, 255).astype(np.uint8)

    normal = texture(0)
    defect = painted(normal, disc(), (50, 10, -20))
    assert iou(measured_mask(round_trip(defect), round_trip(normal), BOX), disc()) >= 0.75


@pytest.mark.parametrize("grain", [0.8, 1.2, 2.0])
@pytest.mark.parametrize("change", [(-70, -70, -70), (80, 10, -40)])
def test_another_realisation_of_the_texture_is_no_defect(grain, change):
    normal, repainted = texture(1, grain), texture(2, grain)
    inside = box_mask(BOX, SIZE[1], SIZE[0])[..., None]
    generated = painted(np.where(inside, repainted, normal), disc(), change)
    assert iou(measured_mask(generated, normal, BOX), disc()) >= 0.7


def test_a_patch_that_lost_its_texture_is_found_although_its_mean_colour_is_the_same():
    normal, generated = texture(1, 1.2, 25), texture(1, 1.2, 25)
    generated[disc()] = normal[disc()].mean(axis=0)
    assert iou(measured_mask(generated, normal, BOX), disc()) >= 0.7


def test_a_smooth_drift_below_what_is_visible_is_no_defect():
    drift = np.linspace(-4, 4, SIZE[1])[None, :, None]
    generated = np.clip(flat() + drift, 0, 255).astype(np.uint8)
    assert not measured_mask(generated, flat(), BOX).any()
    assert iou(measured_mask(painted(generated, disc(), (50, 0, 0)), flat(), BOX), disc()) >= 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("picture", [flat(), flat((0, 0, 0)), texture(0)], ids=["grey", "black", "textured"])
def test_no_change_gives_the_empty_mask(method, picture):
    mask = METHODS[method](picture, picture, BOX, 0.1)
    assert mask.dtype == bool and mask.shape == SIZE and not mask.any()


@given(
    x0=st.integers(-20, 120), y0=st.integers(-20, 110), width=st.integers(0, 130), height=st.integers(0, 120)
)  # fmt: skip
@settings(max_examples=40)
def test_the_mask_has_the_size_of_the_picture_and_lies_in_any_box(x0, y0, width, height):
    generated, box = painted(texture(3), disc(), (70, 0, -40)), (x0, y0, x0 + width, y0 + height)
    for method in METHODS.values():
        mask = method(generated, texture(4), box, 0.1)
        assert mask.dtype == bool and mask.shape == SIZE
        assert not (mask & ~box_mask(box, SIZE[1], SIZE[0])).any()


def test_a_second_blob_below_a_tenth_of_the_largest_is_dropped_and_one_above_stays():
    large = disc(48, 38, 12)
    for radius, stays in ((2, False), (5, True)):
        small = disc(76, 66, radius)
        mask = measured_mask(painted(flat(), large | small, (60, -20, -20)), flat(), BOX)
        assert (mask & small).any() == stays
        assert iou(mask & ~small, large) >= 0.9


def test_the_share_below_which_components_are_dropped_can_be_chosen():
    both = disc(48, 38, 12) | disc(76, 66, 5)
    generated = painted(flat(), both, (60, -20, -20))
    assert (measured_mask(generated, flat(), BOX, component_ratio=0.0) & disc(76, 66, 5)).any()
    assert not (measured_mask(generated, flat(), BOX, component_ratio=0.5) & disc(76, 66, 5)).any()


@pytest.mark.parametrize("picture", [flat(), texture(0)], ids=["flat", "textured"])
def test_a_stronger_change_never_shrinks_the_mask(picture):
    before = np.zeros(SIZE, dtype=bool)
    for strength in range(0, 101, 5):
        mask = measured_mask(painted(picture, disc(), (strength, strength / 2, -strength)), picture, BOX)
        assert not (before & ~mask).any()
        before = mask
    assert iou(before, disc()) >= 0.9


def test_in_the_published_formula_a_strong_change_no_longer_wraps_around():
    # A core with the full distance in a ring with 0.55 of it: in 8 bits without a clip, the ring fell to a tenth.
    core, ring = disc(radius=6), disc(radius=12)
    generated = flat()
    generated[ring], generated[core] = (200, 128, 70), (255, 128, 40)
    assert iou(cosine_rgb_otsu(generated, flat(), BOX), ring) >= 0.9


def test_the_published_formula_is_blind_to_brightness_and_the_measured_one_is_not():
    generated = painted(flat(), disc(), (-64, -64, -64))
    assert not cosine_rgb_otsu(generated, flat(), BOX).any()
    assert measured_mask(generated, flat(), BOX).any()


def test_changes_outside_of_the_box_do_not_matter():
    generated = painted(flat(), disc(), (25, -10, -10))
    beside = np.where(box_mask(BOX, SIZE[1], SIZE[0])[..., None], generated, np.uint8([255, 0, 40]))
    assert np.array_equal(measured_mask(beside, flat(), BOX), measured_mask(generated, flat(), BOX))


def test_an_even_change_of_the_whole_box_marks_the_whole_box():
    inside = box_mask(BOX, SIZE[1], SIZE[0])
    assert np.array_equal(measured_mask(painted(flat(), inside, (40, 0, 0)), flat(), BOX), inside)


def test_pinholes_are_closed_and_real_holes_stay():
    ring, pinhole = disc() & ~disc(radius=6), disc(49, 48, 1)
    mask = measured_mask(painted(flat(), ring & ~pinhole, (60, 0, 0)), flat(), BOX)
    assert mask[48, 49] and not mask[48, 58]


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_different_size_are_refused(method):
    with pytest.raises(ValueError, match="sizes differ"):
        METHODS[method](flat()[:-1], flat(), BOX, 0.1)


@given(st.integers(0, 2**31), st.integers(0, 4))
def test_only_what_changed_keeps_a_defect_and_puts_back_the_rest_bit_for_bit(seed: int, feather: int):
    rng = np.random.default_rng(seed)
    normal = rng.integers(100, 140, (64, 64, 3)).astype(np.uint8)
    generated = normal.copy()
    generated[16:48, 16:48] += rng.integers(0, 2, (32, 32, 3)).astype(np.uint8)  # a ground that is hardly another
    generated[28:36, 26:38] = 20
    box = (16, 16, 48, 48)
    mask = measured_mask(generated, normal, box)
    kept = only_what_changed(generated, normal, mask, feather)
    assert (kept[mask] == generated[mask]).all() and (kept[28:36, 26:38] == 20).all()
    far = np.ones((64, 64), bool)
    far[28 - feather - 3 : 36 + feather + 3, 26 - feather - 3 : 38 + feather + 3] = False
    assert (kept[far] == normal[far]).all()
    assert (only_what_changed(normal, normal, ~mask, feather) == normal).all()
    assert (only_what_changed(generated, normal, mask & False, feather) == normal).all()


@given(st.integers(0, 8), st.integers(0, 2**31))
def test_every_pixel_of_the_mask_stays_as_it_was_painted_wherever_it_lies(feather: int, seed: int):
    rng = np.random.default_rng(seed)
    mask = np.zeros(SIZE, bool)
    for _ in range(4):
        y, x = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1])
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 30)] = True
    kept = only_what_changed(flat((0, 0, 0)), flat(), mask, feather)
    assert (kept[mask] == 0).all()
