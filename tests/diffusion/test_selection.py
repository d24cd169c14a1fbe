"""Low-fidelity selection: the least faithful sample within reason, by what lies inside of the mask alone."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib.core.geometry import box_mask
from lib.diffusion.selection import choose, difference, perceptual_map, without_defect


class Pyramid(nn.Module):
    """Features at two scales, from random filters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)])

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        first = self.layers[0](image).relu()
        return [first, self.layers[1](first)]


BACKBONE = Pyramid().requires_grad_(False)
NORMAL = np.random.default_rng(0).integers(90, 160, (40, 48, 3), dtype=np.uint8)
MASK = box_mask((12, 10, 32, 26), 48, 40)


def painted(strength: int, box: tuple[int, int, int, int] = (12, 10, 32, 26)) -> np.ndarray:
    picture = NORMAL.astype(int)
    picture[box_mask(box, 48, 40)] += [strength, 0, -strength]
    return np.clip(picture, 0, 255).astype(np.uint8)


def score(picture: np.ndarray) -> float:
    return difference(BACKBONE, picture, NORMAL, MASK, 24)


def test_the_most_different_sample_is_chosen():
    scores = [score(NORMAL), score(painted(20)), score(painted(80))]
    assert scores[0] == 0 and choose(scores, np.inf).chosen == 2


def test_the_score_grows_with_the_size_of_a_change():
    scores = [score(painted(60, (12, 10, 12 + width, 26))) for width in (0, 5, 10, 20)]
    assert scores == sorted(scores) and len(set(scores)) == 4


def test_a_change_outside_of_the_mask_counts_nothing():
    noise = np.random.default_rng(1).integers(0, 256, NORMAL.shape, dtype=np.uint8)
    assert score(np.where(MASK[..., None], painted(20), noise)) == score(painted(20))


def test_nothing_is_looked_at_beside_an_artificial_border(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(BACKBONE, "forward", lambda image: seen.append(image) or Pyramid.forward(BACKBONE, image))
    score(painted(20))
    outside = torch.from_numpy(NORMAL).permute(2, 0, 1)[:, torch.from_numpy(~MASK)] / 255
    assert all(torch.allclose(image[:, torch.from_numpy(~MASK)], outside) for image in seen[0])


def test_an_empty_mask_scores_zero():
    assert difference(BACKBONE, painted(20), NORMAL, np.zeros_like(MASK), 24) == 0


@pytest.mark.parametrize(("resolution", "side"), [(24, (48, 40)), (23, (46, 38)), (12, (24, 20)), (100, (48, 40))])
def test_pictures_are_compared_at_twice_the_resolution_of_the_base(monkeypatch: pytest.MonkeyPatch, resolution, side):
    sizes = []
    plain = Pyramid.forward
    monkeypatch.setattr(BACKBONE, "forward", lambda image: sizes.append(image.shape[:1:-1]) or plain(BACKBONE, image))
    assert 0 < difference(BACKBONE, painted(40), NORMAL, MASK, resolution) < 4
    assert sizes == [side]


def test_what_is_as_large_in_a_shrunk_picture_scores_about_as_much():
    big, line = (np.kron(array, np.ones((8, 8, 1), np.uint8)) for array in (painted(60), NORMAL)), MASK.copy()
    large = np.kron(MASK, np.ones((8, 8), bool))
    assert difference(BACKBONE, *big, large, 24) == pytest.approx(score(painted(60)), rel=1e-4)
    line[:], line[20, 5:40] = False, True
    assert difference(BACKBONE, painted(60), NORMAL, line, 2) > 0, "a line of one pixel is not lost"


def test_the_map_has_the_pictures_size_and_is_zero_for_equal_pictures():
    pictures = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    assert perceptual_map(BACKBONE, pictures, pictures).abs().max() == 0
    other = perceptual_map(BACKBONE, pictures, pictures.flip(0))
    assert other.shape == (2, 1, 40, 48) and other.min() >= 0 and other.max() <= 4


@given(st.lists(st.floats(0, 4), min_size=1, max_size=8), st.floats(0, 4))
def test_the_choice_is_the_largest_within_the_limit_or_the_smallest_of_all(scores: list[float], limit: float):
    choice = choose(scores, limit)
    assert choice.beyond == tuple(number for number, value in enumerate(scores) if value > limit)
    within = [value for value in scores if value <= limit]
    best = max(within) if within else min(scores)
    assert choice.chosen == next(
        n for n, value in enumerate(scores) if value == best and (n in choice.beyond) != bool(within)
    )


def test_ties_go_to_the_first_and_what_is_no_picture_to_nobody():
    assert choose([1.0, 2.0, 2.0], 3).chosen == 1
    assert choose([5.0, 5.0], 3).chosen == 0
    assert choose([np.inf, 0.0], 3) == (1, (0,))


def test_a_picture_without_its_defect_looks_like_its_surroundings():
    smooth = np.repeat(np.linspace(80, 160, 48, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    broken = smooth.copy()
    cv2.line(broken, (8, 8), (36, 30), (20, 20, 20), 2)
    mask = (broken != smooth).any(axis=2)
    mended = without_defect(broken, mask)
    assert np.abs(mended.astype(int) - smooth).max() < 12
    far = ~(cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0)
    assert np.array_equal(mended[far], broken[far])
