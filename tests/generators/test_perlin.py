"""Procedural anomalies: the mask is exactly what changed, and the box is where it may."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.geometry import box_mask
from lib.core.images import png_bytes, read_image
from lib.generators import read_real
from lib.generators.perlin import Settings, synthesize
from lib.vision.pseudo import blend, perlin_noise
from tests.category import CATEGORY, placement, tiny_params, write_category


def textured(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 180, (height, width, 3), dtype=np.uint8)


@st.composite
def boxes_in(draw: st.DrawFn, width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


@given(boxes_in(40, 30), st.integers(0, 2**63 - 1), st.integers(1, 60), st.integers(1, 60))
def test_the_mask_is_exactly_what_changed_and_lies_in_the_box(
    box: tuple[int, int, int, int], seed: int, width: int, height: int
):
    normal = textured(40, 30)
    image, mask = blend(normal, textured(width, height, 1), box, np.random.default_rng(seed))
    assert image.dtype == np.uint8 and np.array_equal(mask, (image != normal).any(axis=2))
    assert not mask[~box_mask(box, 40, 30)].any()


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("height", [1, 2, 3])
def test_boxes_of_a_few_pixels_get_their_anomaly(width: int, height: int):
    box = (5, 6, 5 + width, 6 + height)
    masks = [blend(textured(20, 20), textured(20, 20, 1), box, np.random.default_rng(seed))[1] for seed in range(20)]
    assert sum(mask.any() for mask in masks) >= 18


def test_a_usual_box_gets_an_anomaly_of_a_shape_that_is_no_box():
    shares = []
    for seed in range(20):
        _, mask = blend(textured(64, 64), textured(50, 80, 1), (10, 10, 50, 42), np.random.default_rng(seed))
        shares.append(mask.sum() / (40 * 32))
    assert min(shares) > 0 and max(shares) < 0.9


def test_noise_lies_in_about_minus_one_to_one_and_uses_the_range():
    fields = [perlin_noise(48, 64, 4, 8, np.random.default_rng(seed)) for seed in range(20)]
    assert all(field.shape == (48, 64) and field.dtype == np.float32 for field in fields)
    assert 0.6 < max(np.abs(field).max() for field in fields) <= 1.01
    assert abs(np.mean(fields)) < 0.05


def test_noise_is_smooth_within_and_across_its_cells():
    field = perlin_noise(128, 128, 4, 4, np.random.default_rng(0))
    for axis in (0, 1):
        # A cell is 32 px; the noise changes by less than 2 * sqrt(2) * (1 + fade's steepest slope 15/8) per cell.
        assert np.abs(np.diff(field, axis=axis)).max() < 2 * np.sqrt(2) * (1 + 15 / 8) / 32
        assert np.abs(np.diff(field, n=2, axis=axis)).max() < 0.05


def test_noise_vanishes_at_the_lattice_points():
    field = perlin_noise(257, 257, 4, 4, np.random.default_rng(1))
    at = np.array([64, 128, 192])
    assert np.abs(field[np.ix_(at, at)]).max() < 0.05


@pytest.fixture
def category(inside: Path, raw_params: dict):
    write_category()
    return tiny_params(raw_params), read_real(CATEGORY)


def test_placements_on_pictures_of_any_size_are_painted_in_their_order(category):
    params, real = category
    batches = [
        [placement(1, "good-0"), placement(2, "good-1", (0, 0, 48, 40))],
        [placement(3, "good-2", (39, 55, 40, 56))],
    ]
    made = list(synthesize(params, Settings(), real, Path("model"), batches))
    assert [len(batch) for batch in made] == [2, 1]
    for one, asked in zip(chain(*made), chain(*batches), strict=True):
        normal = read_image(Path(real.samples[asked.normal].image))
        outside = ~box_mask(asked.box, *normal.shape[1::-1])
        assert one.image.shape == normal.shape and np.array_equal(one.image[outside], normal[outside])
        assert np.array_equal(one.mask, (one.image != normal).any(axis=2))


def test_equal_seeds_give_equal_bytes_in_any_batch_and_other_seeds_differ(category):
    params, real = category
    first, second = placement(1), placement(2)
    [together] = synthesize(params, Settings(), real, Path("model"), [[first, second, first]])
    [[alone]] = synthesize(params, Settings(), real, Path("model"), [[first]])
    assert png_bytes(together[0].image) == png_bytes(together[2].image) == png_bytes(alone.image)
    assert png_bytes(together[0].image) != png_bytes(together[1].image)
