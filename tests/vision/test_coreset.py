"""The greedy choice of k centres, and the projection that makes it cheap."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.vision.coreset import PROJECTED, greedy_coreset, projected

clouds = st.builds(
    lambda seed, count, dims: torch.from_numpy(
        np.random.default_rng(seed).normal(size=(count, dims)).astype(np.float32)
    ),
    st.integers(0, 99),
    st.integers(2, 60),
    st.integers(1, 8),
)


@settings(max_examples=40)
@given(patches=clouds, size=st.integers(1, 70), seed=st.integers(0, 9))
def test_the_coreset_is_the_greedy_choice_and_tells_how_well_it_covers(patches, size, seed):
    chosen, radii = greedy_coreset(patches, size, seed)
    assert len(chosen) == len(set(chosen.tolist())) == len(radii) == min(size, len(patches))
    between = torch.cdist(patches, patches, compute_mode="donot_use_mm_for_euclid_dist")
    for n, radius in enumerate(radii, start=1):
        covered = between[:, chosen[:n]].amin(dim=1)
        assert radius == pytest.approx(float(covered.max()), abs=2e-3)
        if n < len(chosen):
            assert float(covered[chosen[n]]) == pytest.approx(float(covered.max()), abs=2e-3), "the farthest is next"


def test_a_coreset_covers_better_than_as_many_random_patches():
    rng = np.random.default_rng(0)
    common, rare = rng.normal(0, 1, (2000, 6)), rng.normal(8, 1, (20, 6))
    patches = torch.from_numpy(np.concatenate([common, rare]).astype(np.float32))
    _, radii = greedy_coreset(patches, 40, 0)
    draws = [torch.from_numpy(np.random.default_rng(n).permutation(len(patches))[:40]) for n in range(20)]
    random = [float(torch.cdist(patches, patches[draw]).amin(dim=1).max()) for draw in draws]
    assert radii[-1] < min(random) and radii[-1] < 0.3 * np.median(random)


@pytest.mark.parametrize("offset", [0, 1000])
def test_what_rounds_to_no_distance_is_chosen_once_all_the_same(offset):
    """On a line two of forty lie so close that their squared distance, by products, is 0."""
    patches = torch.from_numpy(np.random.default_rng(2).normal(size=(40, 1)).astype(np.float32)) + offset
    for seed in range(10):
        chosen, radii = greedy_coreset(patches, 40, seed)
        assert sorted(chosen.tolist()) == list(range(40)) and radii[-1] == 0
    chosen, radii = greedy_coreset(torch.ones(5, 3), 4, 0)
    assert len(set(chosen.tolist())) == 4 and radii == [0] * 4


def test_a_projection_keeps_distances_nearly_as_they_are():
    patches = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 300)).astype(np.float32))
    small = projected(patches, 0)
    assert small.shape == (60, PROJECTED)
    ratio = torch.pdist(small) / torch.pdist(patches)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03) and float(ratio.std()) < 0.12
    assert projected(small, 0) is small
