"""Rendered surfaces: exact masks, equal twins, every family and every defect."""

from dataclasses import replace

import cv2
import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lib.dataset import surfaces
from lib.dataset.surfaces import DEFECTS, HALO, MIN_CONTRAST, SURFACES, VISIBLE, Camera, Light, Pair


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1))) > 0


def pairs_of(count: int, seed: int = 0) -> list[Pair]:
    rng = np.random.default_rng(seed)
    return [surfaces.random_pair(rng, 96) for _ in range(count)]


def silent(shape: tuple[int, int], seed: int, defect_type: str) -> Pair:
    """A pair without sensor noise, in which a grey level is a grey level."""
    rng = np.random.default_rng(seed)
    scene = surfaces.painted(rng, shape, (0.3, 0.32, 0.35))
    camera = Camera(read=0.0, shot=0.0)
    centre = (shape[1] / 2, shape[0] / 2)
    pair = surfaces.render_pair(scene, Light(1.0, 0.9), camera, rng, defect_type, centre, 40, level=0.5)
    assume(pair is not None)  # some few defects stay invisible, which the renderer says
    assert pair is not None
    return pair


def test_beyond_the_halo_the_twins_are_equal_bit_for_bit():
    for pair in pairs_of(25):
        beyond = ~grown(pair.mask, HALO)
        assert np.array_equal(pair.defect[beyond], pair.normal[beyond])


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from(list(DEFECTS)))
@example(515, "scratch")  # invisible
def test_outside_the_mask_no_change_is_visible_and_inside_it_is(seed: int, defect_type: str):
    pair = silent((80, 100), seed, defect_type)
    change = np.abs(pair.defect.astype(int) - pair.normal).max(2)
    # Rounding either picture to whole grey levels adds less than one level.
    assert change[~pair.mask].max() < 255 * VISIBLE + 1
    assert change[pair.mask].mean() > 255 * MIN_CONTRAST - 1
    # Closed pinholes are smaller than an island each; nearly all of the mask is visible change.
    assert (change[pair.mask] >= 255 * VISIBLE - 1).mean() > 0.8


def test_pairs_are_pictures_with_a_named_surface_and_defect():
    for pair in pairs_of(25, seed=3):
        assert pair.normal.shape == pair.defect.shape == (96, 96, 3)
        assert pair.normal.dtype == pair.defect.dtype == np.uint8
        assert pair.mask.dtype == pair.foreground.dtype == bool
        assert pair.mask.any() and not pair.mask.all()
        assert pair.defect_type in SURFACES[pair.surface]


def test_the_same_seed_gives_the_same_pair_and_another_seed_another():
    once, again, other = pairs_of(1, 5)[0], pairs_of(1, 5)[0], pairs_of(1, 6)[0]
    assert np.array_equal(once.defect, again.defect) and np.array_equal(once.mask, again.mask)
    assert not np.array_equal(once.defect, other.defect)


def test_every_defect_type_belongs_to_some_surface():
    assert {name for types in SURFACES.values() for name in types} == set(DEFECTS)


def test_every_surface_renders_with_each_of_its_defects():
    for surface, types in SURFACES.items():
        for defect_type in dict.fromkeys(types):
            rng = np.random.default_rng(1)
            shape, target = (64, 72), (36.0, 32.0)
            if types is surfaces._PART:
                scene = surfaces._random_part(rng, surface, shape, target, defect_type == "chipped_edge")
            else:
                scene = surfaces._random_scene(rng, surface, shape)
            pair = surfaces.render_pair(
                scene, Light(0.5, 0.8), Camera(), rng, defect_type, target, 30, 1.0, surface, 0.5
            )
            assert pair is not None, (surface, defect_type)
            assert pair.mask.any() and pair.defect.shape == (64, 72, 3)


def test_defects_of_a_part_stay_on_the_part_up_to_the_blur_of_the_lens():
    parts = [pair for pair in pairs_of(60, seed=8) if not pair.foreground.all()]
    assert len(parts) >= 5
    for pair in parts:
        assert not (pair.mask & ~grown(pair.foreground, 2)).any()


def test_islands_are_dropped_and_pinholes_closed():
    change = np.zeros((30, 30, 3), np.float32)
    change[5:15, 5:15] = 0.1
    change[9, 9] = 0
    change[20:22, 20:22, 1] = -0.1
    mask = surfaces.visible_mask(change)
    assert mask[9, 9] and mask.sum() == 100


def test_an_invisible_defect_is_reported_and_not_labelled():
    rng = np.random.default_rng(0)
    scene = surfaces.painted(rng, (64, 64), (0.3, 0.3, 0.3))
    nothing = replace(scene, foreground=np.zeros((64, 64), bool))
    assert surfaces.render_pair(nothing, Light(0, 1), Camera(), rng, "stain", (32, 32), 20) is None
