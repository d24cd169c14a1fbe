"""What the autoencoder is trained on, and how its error is measured."""

import numpy as np
import pytest
import torch

from lib.base.autoencoder import ReconstructionObjective, chroma, slope
from lib.base.settings import SIDE
from lib.dataset.surfaces import random_pair


def test_a_reconstruction_sees_the_same_view_for_the_same_draw(params):
    pool = [random_pair(np.random.default_rng(index), SIDE) for index in range(2)]
    objective = ReconstructionObjective(torch.nn.Module(), pool, params.sharpening)
    views = [objective.view(1, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert views[0].shape == (1, 3, params.sharpening.crop, params.sharpening.crop)
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    assert views[0].abs().max() <= 1


def test_a_grey_picture_has_no_chroma_and_a_constant_one_no_slope():
    grey = torch.rand(2, 1, 8, 8).expand(2, 3, 8, 8)
    assert chroma(grey).abs().max() < 1e-6 and chroma(grey).shape == (2, 3, 2, 2)
    assert torch.equal(slope(torch.ones(1, 3, 8, 8), -1, 2), torch.zeros(1, 3, 8, 6))


@pytest.mark.parametrize("axis", [-1, -2])
def test_the_slope_of_a_ramp_is_its_steepness_times_the_reach(axis: int):
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 3, 8, 8)
    ramp = ramp if axis == -1 else ramp.transpose(-1, -2)
    assert (slope(ramp, axis, 2) == 2).all()
