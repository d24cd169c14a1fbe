import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.geometry import rescale
from lib.vision.tiles import Sight, predict_tiled, predict_whole, tiles

sizes = st.integers(1, 70)


def red(tiles):
    return tiles[..., 0].astype(np.float32) / 255


def recording():
    """`red`, and the list that the shapes of all batches it sees go into."""
    shapes = []
    return shapes, lambda tiles: shapes.append(tiles.shape) or red(tiles)


@settings(max_examples=40)
@given(height=sizes, width=sizes, overlap=st.integers(0, 15), seed=st.integers(0, 9))
def test_the_identity_predicted_by_tiles_is_the_picture_itself(height, width, overlap, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    scores = predict_tiled(image, red, window=16, overlap=overlap)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, image[..., 0] / 255, atol=1e-6)


@settings(max_examples=20)
@given(height=sizes, width=sizes)
def test_a_constant_stays_constant_on_every_size(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    scores = predict_tiled(image, lambda tiles: np.full(tiles.shape[:3], 0.25), window=16, overlap=4)
    np.testing.assert_allclose(scores, 0.25, rtol=1e-6)


@settings(max_examples=20)
@given(height=sizes, width=sizes, batch_size=st.integers(1, 9))
def test_the_batch_size_changes_nothing(height, width, batch_size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)

    def brightest_row_of_each_tile(tiles):
        return np.broadcast_to(red(tiles).max(axis=1, keepdims=True), tiles.shape[:3])

    one_by_one = predict_tiled(image, brightest_row_of_each_tile, 16, 4, batch_size=1)
    np.testing.assert_array_equal(
        predict_tiled(image, brightest_row_of_each_tile, 16, 4, batch_size=batch_size), one_by_one
    )


def test_no_batch_is_larger_than_asked_and_all_tiles_have_the_size_of_the_window():
    shapes, recorded = recording()
    predict_tiled(np.zeros((64, 40, 3), np.uint8), recorded, window=16, overlap=0, batch_size=5)
    assert [shape[0] for shape in shapes] == [5, 5, 2]
    assert {shape[1:] for shape in shapes} == {(16, 16, 3)}


@settings(max_examples=60)
@given(height=st.integers(1, 400), width=st.integers(1, 400), multiple=st.sampled_from([1, 4, 16]))
def test_a_tile_is_a_window_or_a_little_more_and_fits_the_network(height, width, multiple):
    shapes, recorded = recording()
    predict_tiled(np.zeros((height, width, 3), np.uint8), recorded, window=32, overlap=8, multiple=multiple)
    (side,) = {shape[1] for shape in shapes}
    assert side % multiple == 0 and 32 <= side < 1.5 * 32 + multiple


def test_a_little_larger_tiles_save_a_row_of_them():
    shapes, recorded = recording()
    predict_tiled(np.zeros((256, 256, 3), np.uint8), recorded, window=128, overlap=32, multiple=16)
    assert shapes == [(4, 144, 144, 3)], "and not nine of 128 px, which are nearly twice as many pixels"


@settings(max_examples=60)
@given(height=st.integers(1, 400), width=st.integers(1, 400), largest=st.sampled_from([32, 60, 96]))
def test_up_to_the_largest_no_other_side_has_fewer_pixels_in_its_tiles(height, width, largest):
    chosen = tiles((height, width), 32, 8, 16, largest)
    others = [tiles((height, width), side, 8, 16, side) for side in range(32, largest + 1, 16)]
    assert 32 <= chosen[0].side <= largest and all(one.side == chosen[0].side for one in chosen)
    assert len(chosen) * chosen[0].side ** 2 == min(len(one) * one[0].side ** 2 for one in others)
    covered = np.zeros((height, width), bool)
    for one in chosen:
        covered[max(one.y0, 0) : one.y0 + one.side, max(one.x0, 0) : one.x0 + one.side] = True
    assert covered.all()


def test_of_sides_with_as_many_pixels_the_one_with_fewer_tiles_is_taken():
    assert [one.side for one in tiles((64, 64), 32, 0, 32, 64)] == [64]


@settings(max_examples=30)
@given(height=sizes, width=sizes)
def test_the_identity_is_itself_by_tiles_of_any_side_up_to_the_largest(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    scores = predict_tiled(image, red, window=16, overlap=4, largest=40)
    np.testing.assert_allclose(scores, image[..., 0] / 255, atol=1e-6)


def test_a_tile_fades_out_towards_a_neighbour_as_a_raised_cosine():
    numbers = iter([0.0, 1.0])
    (row,) = predict_tiled(
        np.zeros((16, 28, 3), np.uint8), lambda seen: np.full(seen.shape[:3], next(numbers)), 16, 4, batch_size=1
    )[:1]
    ramp = np.maximum(np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2, 1e-2)
    np.testing.assert_allclose(row, [*[0] * 12, *(ramp[:4] / (ramp[:4] + ramp[12:])), *[1] * 12], atol=1e-6)


def test_a_small_picture_reaches_the_network_mirrored_and_not_padded():
    image = np.full((5, 7, 3), 200, np.uint8)
    seen = []
    predict_tiled(image, lambda tiles: seen.append(tiles) or red(tiles), window=16, overlap=4)
    assert (seen[0] == 200).all()


def test_an_overlap_as_wide_as_the_window_is_refused():
    with pytest.raises(ValueError, match="overlap is 16"):
        predict_tiled(np.zeros((20, 20, 3), np.uint8), red, window=16, overlap=16)


def test_several_channels_are_each_what_they_would_be_alone():
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    sight = Sight(32, 8, 4, 5, 0.7, smoothing=1.5)
    channels = predict_whole(image, lambda tiles: tiles.transpose(0, 3, 1, 2) / 255, sight)
    assert channels.shape == (3, 70, 90) and channels.dtype == np.float32
    for number, channel in enumerate(channels):
        alone = predict_whole(image, lambda tiles, number=number: tiles[..., number] / 255, sight)
        np.testing.assert_array_equal(channel, alone)


@pytest.mark.parametrize("scale", [0.5, 0.3, 1.7])
@given(peaks=st.lists(st.integers(100, 220), min_size=2, max_size=2, unique=True))
def test_scores_of_a_scaled_picture_stay_within_those_of_the_network_and_do_not_tie(scale: float, peaks: list[int]):
    image = np.zeros((64, 128, 3), np.uint8)
    for column, peak in zip((32, 96), peaks, strict=True):
        image[24:40, column - 8 : column + 8] = peak
    small = rescale(image, scale)[..., 0] / 255
    sight = Sight(16, 4, 4, 5, scale)
    scores = predict_whole(image, lambda tiles: tiles[..., 0] / 255, sight)
    assert scores.min() >= 0 and scores.max() <= small.max() + 1e-6
    left, right = (half.max() for half in np.split(scores, 2, axis=1))
    assert (left < right) == (peaks[0] < peaks[1]) and left != right
