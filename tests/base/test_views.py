"""Training views of the base: holes that cover the defect, pieces and windows that show the hole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.base.settings import SIDE, Windows
from lib.base.views import LINES, Captions, hole_of, in_batches, piece_of, views_of, window_of
from lib.dataset.surfaces import random_pair


@pytest.fixture(scope="module")
def pool():
    return [random_pair(np.random.default_rng(index), SIDE) for index in range(60)]


@pytest.fixture(scope="module")
def captions():
    return [Captions([f"defect {index}"], [f"good {index}"]) for index in range(60)]


def defects_in(views) -> set[int]:
    """The numbers of the pairs whose defect picture is among the views."""
    return {int(view.captions[0].removeprefix("defect ")) for view in views if view.captions[0].startswith("defect")}


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_a_hole_covers_the_defect_and_never_the_whole_picture(seed: int):
    rng = np.random.default_rng(seed)
    pair = random_pair(rng, SIDE)
    hole = hole_of(pair, rng, 0.5)
    assert hole.shape == pair.mask.shape and hole.dtype == bool
    assert not (pair.mask & ~hole).any()


@given(st.integers(0, 2**31))
def test_a_piece_shows_the_hole_and_cuts_all_pictures_alike(seed: int):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, SIDE - 40, 2)
    hole = np.zeros((SIDE, SIDE), bool)
    hole[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = True
    picture = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    grey, mine, cut = piece_of((picture[..., 0], picture, hole), 96, rng)
    assert mine.shape == (96, 96, 3) and cut.shape == (96, 96)
    assert cut.sum() == hole.sum() and np.array_equal(grey, mine[..., 0])
    assert np.array_equal(np.sort(mine[cut], axis=None), np.sort(picture[hole], axis=None))


def test_a_piece_smaller_than_the_hole_lies_within_it():
    hole = np.zeros((SIDE, SIDE), bool)
    hole[10:120, 4:124] = True
    assert piece_of((hole,), 96, np.random.default_rng(0))[0].all()


def test_pairs_with_a_line_are_seen_as_often_as_the_phase_says(params, pool, captions):
    pool = pool[:8]
    views = views_of(pool, captions, params.lines, params.pool, seed=1)
    for index, pair in enumerate(pool):
        images = [view.image.tobytes() for view in views if view.captions == [f"defect {index}"]]
        assert len(images) == (4 if pair.defect_type in ("crack", "scratch", "thread") else 1)
        assert len(set(images)) == len(images), "another piece each time"
    assert {pair.defect_type in LINES for pair in pool} == {True, False}
    assert all(view.image.shape == (96, 96, 3) and view.hole.any() for view in views)
    again = views_of(pool, captions, params.lines, params.pool, seed=1)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(views, again, strict=True))


def test_strokes_are_learnt_on_small_holes_and_few_other_defects(params, pool, captions):
    views = views_of(pool, captions, params.strokes, params.pool, seed=1)
    lines = {index for index, pair in enumerate(pool) if pair.defect_type in LINES}
    assert 0 < len(defects_in(views) - lines) <= np.ceil(60 / 4)
    assert defects_in(views) & lines and not lines <= defects_in(views)
    for view in views:
        assert view.image.shape == (80, 80, 3) and all(np.ptp(extent) < 68 for extent in np.nonzero(view.hole))


def test_windows_are_cut_around_the_hole_as_the_pipeline_cuts_them(params, pool, captions):
    views = views_of(pool, captions, params.windows, params.pool, seed=1)
    side, (nearest, widest) = params.windows.crop, params.windows.context
    shares = []
    for view in views:
        assert view.image.shape == (side, side, 3) and view.hole.shape == (side, side)
        shares.append(max(np.ptp(extent) + 1 for extent in np.nonzero(view.hole)) / side)
    assert 1 / widest - 0.05 < np.median(shares) < 1 / nearest and max(shares) <= 1
    assert defects_in(views) == set(range(60)), "defects of every size"


@given(st.integers(0, 2**31))
def test_a_window_shows_the_whole_hole_at_its_scale(seed: int):
    rng = np.random.default_rng(seed)
    x, y, wide, high = (int(value) for value in (*rng.integers(0, SIDE - 60, 2), *rng.integers(10, 60, 2)))
    hole = np.zeros((SIDE, SIDE), bool)
    hole[y : y + high, x : x + wide] = True
    settings = Windows.model_construct(context=(1.5, 1.5), min_side=48, crop=96)
    picture, cut = window_of((hole * np.uint8(200), hole), settings, rng)
    scale = 96 / max(48, np.ceil(1.5 * max(wide, high)))
    rows, columns = (np.ptp(extent) + 1 for extent in np.nonzero(cut))
    assert abs(rows - high * scale) <= 1 and abs(columns - wide * scale) <= 1
    assert np.mean((picture > 100) == cut) > 0.9, "picture and hole are cut alike"


def test_every_view_is_encoded_under_a_seed_of_its_own(params, pool, captions):
    views = views_of(pool, captions, params.windows, params.pool, seed=1)
    seeds = [seed for *_, batch in in_batches(views) for seed in batch.tolist()]
    assert len(views) > 64 and seeds == list(range(len(views)))
