"""The object in a picture, on drawn pictures whose object is known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lib.core.geometry import resize
from lib.core.images import write_png
from lib.core.records import Sample
from lib.dataset.workpieces import workpiece
from lib.placement.foreground import foreground_mask, object_mask, outer_mask, outline_error


def drawn_nut(background=(40, 42, 45), metal=(190, 185, 175), size=(300, 260), noise=4.0, shading=0.0, seed=0):
    """A ring with a bore on a plain background, and where it is."""
    width, height = size
    where = np.zeros((height, width), np.uint8)
    cv2.circle(where, (width // 2 + 10, height // 2), min(size) // 3, 1, -1)
    cv2.circle(where, (width // 2 + 10, height // 2), min(size) // 7, 0, -1)
    image = np.where(where[..., None] > 0, metal, background).astype(np.float32)
    image *= 1 + shading * np.linspace(-1, 1, width)[None, :, None]
    image += np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), where > 0


def sample_of(defect_type):
    return Sample("one", "part", defect_type, "one.png", None, "one", "train", (50, 40), "")


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    "style",
    [
        {},
        {"background": (235, 235, 235), "metal": (70, 60, 50)},
        {"background": (60, 110, 60), "metal": (150, 90, 60)},
        {"shading": 0.25},
        {"noise": 12.0},
        {"size": (1200, 900)},
    ],
    ids=["dark", "bright", "coloured", "uneven light", "noisy", "large"],
)
def test_an_object_on_a_plain_background_is_found_without_its_bore(style):
    image, where = drawn_nut(**style)
    assert overlap(foreground_mask(image), where) > 0.9


@pytest.mark.parametrize("metal", [(190, 185, 175), (12, 12, 14)])
@pytest.mark.parametrize("number", [2, 3, 8])
def test_all_parts_of_a_picture_are_found(number, metal):
    where = np.zeros((240, 320), np.uint8)
    for place in range(number):
        cv2.circle(where, (45 + 75 * (place % 4), 60 + 110 * (place // 4)), 28, 1, -1)
    image = np.where(where[..., None] > 0, metal, (70, 74, 80)) + np.random.default_rng(0).normal(0, 3, (240, 320, 3))
    assert overlap(foreground_mask(np.clip(image, 0, 255).astype(np.uint8)), where > 0) > 0.85


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("levels", [(30, 170), (235, 60), (128, 160)])
def test_a_profile_from_border_to_border_is_an_object(across, levels):
    where = np.zeros((160, 200), bool)
    if across:
        where[30:110] = True
    else:
        where[:, 60:140] = True
    image = np.where(where[..., None], levels[1], levels[0]) + np.random.default_rng(0).normal(0, 3, (160, 200, 1))
    mask = foreground_mask(np.clip(image, 0, 255).astype(np.uint8).repeat(3, axis=2))
    assert overlap(mask, where) > 0.9


def test_a_clean_white_ground_stays_ground_where_an_object_comes_near_the_border():
    image = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(image, (100, 100), 88, (60, 60, 80), -1)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    mask = foreground_mask(image)
    assert mask[100, 100] and not mask[4, 4] and 0.55 < mask.mean() < 0.7


def test_light_that_fades_is_no_outline():
    x = np.linspace(0, 1, 240)
    values = 60 + 130 / (1 + np.exp((x - 0.5) / 0.08))
    assert foreground_mask(np.tile(values[None, :, None], (200, 1, 3)).astype(np.uint8)).all()


def test_a_glint_on_the_object_and_a_speck_beside_it_change_nothing():
    image, where = drawn_nut()
    cv2.circle(image, (100, 130), 5, (40, 42, 45), -1)
    cv2.circle(image, (20, 20), 4, (190, 185, 175), -1)
    mask = foreground_mask(image)
    assert mask[130, 100] and not mask[20, 20]
    assert overlap(mask, where) > 0.9


def test_an_object_cut_off_by_the_border_is_still_one():
    image, where = drawn_nut()
    assert overlap(foreground_mask(image[:, 90:]), where[:, 90:]) > 0.9


def texture(name):
    rng = np.random.default_rng(0)
    y, x = np.indices((256, 256), dtype=np.float32)
    values = {
        "noise": rng.normal(120, 30, (256, 256)),
        "blotches": 120 + 600 * cv2.GaussianBlur(rng.normal(0, 1, (256, 256)), (0, 0), 12),
        "stripes": 120 + 60 * np.sin(x / 6),
        "weave": 120 + 40 * np.sin(x / 4) * np.sin(y / 4),
        "plain": np.full((256, 256), 120.0),
        "gradient": x / 2 + 60,
        "vignette": 200 - 0.006 * ((x - 128) ** 2 + (y - 128) ** 2),
    }[name]
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["noise", "blotches", "stripes", "weave", "plain", "gradient", "vignette"])
def test_a_texture_is_foreground_everywhere(name):
    assert foreground_mask(texture(name)).all()


@pytest.mark.parametrize("name", ["noise", "weave", "plain", "gradient"])
@pytest.mark.parametrize("radius", [8, 20, 30])
def test_a_stain_on_a_texture_is_not_taken_for_an_object(name, radius):
    image = texture(name)
    cv2.circle(image, (150, 100), radius, (20, 20, 60), -1)
    assert foreground_mask(image).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (7, 9), (40, 2000), (17, 300)])
def test_any_size_gives_a_mask_of_that_size(shape):
    mask = foreground_mask(np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8))
    assert mask.shape == shape and mask.dtype == bool and mask.any()


@pytest.mark.parametrize("side", [160, 256, 700])
def test_a_rendered_nut_lies_within_its_detected_outline_as_far_as_that_may_be_off(side):
    for index in range(6):
        pair = workpiece("hex_nut", "train/good", 0, index)
        image, exact = resize(pair.normal, side, side), resize(pair.foreground, side, side)
        outer = outer_mask(sample_of("good"), image)
        away = cv2.distanceTransform((~outer).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        assert (away[exact] > outline_error(image.shape)).mean() < 1e-4, "the part"
        assert outer.mean() < 1.15 * exact.mean() + 0.1, "its bore, and its shadow, but not the ground"
        assert not (object_mask(sample_of("good"), image) & ~outer).any()


def test_a_part_that_a_person_drew_is_taken_as_drawn(tmp_path):
    drawn = np.zeros((40, 50), bool)
    drawn[5:30, 5:30], drawn[10:20, 10:20] = True, False
    write_png(tmp_path / "part.png", drawn)
    sample = replace(sample_of("good"), foreground=(tmp_path / "part.png").as_posix())
    image = np.zeros((40, 50, 3), np.uint8)
    assert np.array_equal(object_mask(sample, image), drawn) and np.array_equal(outer_mask(sample, image), drawn)


def test_a_ring_is_filled_where_nobody_drew_it():
    image, where = drawn_nut()
    outer = outer_mask(sample_of("good"), image)
    assert outer[130, 160] and not where[130, 160] and overlap(outer, where | (outer & ~where)) > 0.99
    assert overlap(foreground_mask(image), object_mask(sample_of("good"), image)) == 1
