"""The surroundings of a place: what they see, what they leave out, and when two are alike."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.placement.parts import turning
from lib.placement.surroundings import CHANNELS, alignment, features, features_at, ring_offsets, scales, unlikeness

WHOLE = np.ones((160, 160), bool)


def picture(seed=0, size=(160, 160)):
    """Soft blotches."""
    noise = np.random.default_rng(seed).normal(0, 1, (*size, 3))
    return np.clip(128 + 500 * cv2.GaussianBlur(noise, (0, 0), 6), 0, 255).astype(np.uint8)


@given(st.integers(0, 140), st.integers(0, 110), st.integers(1, 60), st.integers(1, 60))
def test_the_points_around_a_box_lie_outside_of_it(x, y, width, height):
    box = (x, y, x + width, y + height)
    offsets = np.abs(ring_offsets(box, (200, 170)))
    assert ((offsets > np.array([width, height]) / 2).any(axis=-1)).all()


def test_what_a_box_hides_does_not_shine_into_the_surroundings():
    image = picture()
    stained, box = image.copy(), (60, 70, 90, 95)
    stained[70:95, 60:90] = (255, 0, 0)
    one, other = (features(each, WHOLE, [box]) for each in (image, stained))
    for values, known in (
        features_at(look, np.array([75.0, 82.5]) + ring_offsets(box, (160, 160))) for look in (one, other)
    ):
        assert known.all() and np.isfinite(values).all()
    assert np.abs(one.maps - other.maps)[one.known].max() < 2


def test_a_place_is_like_itself_and_unlike_others():
    look = features(picture(), WHOLE)
    centres = np.random.default_rng(1).uniform(30, 130, (50, 2))
    offsets = ring_offsets((0, 0, 20, 14), (160, 160))
    around, known = features_at(look, centres[:, None, None] + offsets)
    unlike = unlikeness(around[7], known[7], around, scales([look]))
    assert unlike[7] == 0 and np.argmin(unlike) == 7 and np.median(unlike) > 0.5


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_place_is_alike_when_it_is_looked_at_turned(quarters):
    image = picture()
    look, turned = features(image, WHOLE), features(np.rot90(image, -quarters).copy(), WHOLE)
    turn = turning(quarters * np.pi / 2)
    point = np.array([60.0, 95.0])
    there = (point - 80) @ turn + 80
    offsets = ring_offsets((0, 0, 21, 13), (160, 160))
    (real, known), (alike, _), (askew, _) = (
        features_at(look, point + offsets),
        features_at(turned, there + offsets @ turn),
        features_at(turned, there + offsets),
    )
    same, other = unlikeness(real, known, np.stack([alike, askew]), scales([look]))
    assert same < 0.15 < 0.4 < other


def test_unknown_points_do_not_count():
    around, known = features_at(
        features(picture(), WHOLE), np.array([80.0, 80]) + ring_offsets((0, 0, 20, 20), (160, 160))
    )
    changed, known = around.copy(), known.copy()
    changed[1, 3:6], known[1, 3:6] = 1000, False
    assert unlikeness(around, known, changed[None], np.ones(6, np.float32))[0] == 0
    assert unlikeness(around, np.zeros_like(known), changed[None], np.ones(6, np.float32))[0] == 0


def test_beyond_the_border_is_seen_on_the_near_rings():
    values, known = features_at(
        features(picture(), WHOLE), np.array([4.0, 80]) + ring_offsets((0, 72, 8, 88), (160, 160))
    )
    beyond = values[..., CHANNELS.index("beyond")]
    assert known.all() and beyond[0].any() and not beyond[0].all() and not beyond[-1].any()


def test_on_a_whole_picture_the_light_does_not_count():
    image = picture().astype(float) / 2 + 40
    y, x = np.indices((160, 160)) / 160
    lit = (image + 25 * (x + y * y - 0.8)[..., None]).clip(0, 255).astype(np.uint8)
    plain, uneven = (features(each.astype(np.uint8), WHOLE).maps[..., 0] for each in (image, lit))
    assert np.abs(plain - uneven).mean() < 0.2 * plain.std() < 0.04 * np.ptp(lit.mean(axis=2))


def test_depth_is_zero_at_the_edge_and_one_deep_inside():
    where = np.zeros((160, 160), np.uint8)
    cv2.circle(where, (80, 80), 50, 1, -1)
    depth = features(picture(), where > 0).maps[..., CHANNELS.index("depth")]
    assert depth[80, 80] == 1 and depth[2, 2] == -1 and abs(depth[80, 129]) < 0.15


def test_pictures_of_the_same_thing_in_the_same_place_are_aligned():
    noise = [np.random.default_rng(seed).normal(0, 6, (160, 160, 3)) for seed in range(4)]
    same = [features((picture() + one).clip(0, 255).astype(np.uint8), WHOLE) for one in noise]
    other = [features(picture(seed), WHOLE) for seed in range(9)]
    assert alignment(same) > 0.9 and abs(alignment(other)) < 0.3
    assert alignment(same[:1]) == 0


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 300))
def test_any_size_of_picture_has_features(height, width):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    look = features(image, np.ones((height, width), bool), [(0, 0, max(width // 2, 1), height)])
    values, _ = features_at(look, np.array([width / 2, height / 2]) + ring_offsets((0, 0, 1, 1), (width, height)))
    assert np.isfinite(values).all()
