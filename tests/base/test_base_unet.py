"""The base's U-Net: how its objective weighs holes and noise levels, its weights' bits, the scale of latents."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler
from torch import nn

from lib.base import unet as recipe
from lib.base.settings import SIDE
from lib.base.unet import HoleObjective, round_mantissa, scale_latents
from lib.dataset.surfaces import random_pair
from lib.diffusion.components import Components, encode, to_tensor
from lib.diffusion.inpainting import Cache


@pytest.fixture
def objective(params, monkeypatch: pytest.MonkeyPatch):
    """A function that makes the objective of a U-Net over a cache, without a text encoder."""
    monkeypatch.setattr(recipe, "TrainableText", lambda parts, texts: lambda rows: torch.zeros(1, 1, 1))

    def make(unet: nn.Module, mask: torch.Tensor, **changes) -> HoleObjective:
        latents = torch.zeros(1, 4, *mask.shape[-2:])
        settings = params.lines.model_copy(update={"min_snr_gamma": None, "caption_dropout": 0.0, **changes})
        parts = Components(unet, None, None, None, DDIMScheduler())
        return HoleObjective(parts, [""], Cache(latents, latents, mask, ((0,),)), settings)

    return make


class Wrong(nn.Module):
    """Errs by 1 in the hole, by nothing elsewhere, for the noise of seed 0."""

    def forward(self, sample, timesteps, text):
        noise = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))[None]
        return SimpleNamespace(sample=noise + sample[:, 4:5])


@pytest.mark.parametrize(("outside", "expected"), [(1.0, 0.25), (0.5, 0.4), (0.0, 1.0)])
def test_an_error_in_the_hole_counts_for_its_share_of_the_weight(objective, outside: float, expected: float):
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1  # a quarter
    [loss] = objective(Wrong(), mask, outside_weight=outside)(torch.tensor([0]), [torch.Generator().manual_seed(0)])
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("bounds", "share", "expected"), [(None, 0.0, 0.2), ((300, 500), 0.75, 0.75 + 0.25 * 0.2)])
def test_a_share_of_the_samples_draws_its_timestep_between_two_bounds_and_the_others_anywhere(
    objective, bounds, share: float, expected: float
):
    draw = objective(nn.Identity(), torch.zeros(1, 1, 4, 4), timesteps=bounds, timesteps_share=share).draw_timestep
    timesteps = torch.cat([draw(torch.Generator().manual_seed(seed)) for seed in range(2000)])
    inside = (timesteps >= 300) & (timesteps < 500)
    assert float(inside.float().mean()) == pytest.approx(expected, abs=0.04)
    assert timesteps.min() < 50 and timesteps.max() > 950


def test_rounded_weights_keep_their_first_bits_and_no_others():
    layer = torch.nn.Linear(64, 64)
    before = layer.weight.detach().clone()
    round_mantissa(layer, 6)
    assert ((layer.weight - before).abs() <= before.abs() * 2**-7 + 1e-12).all(), "to the nearest"
    assert not (layer.weight.detach().view(torch.int32) & (2**17 - 1)).any(), "17 of 23 bits are zero"
    again = layer.weight.detach().clone()
    round_mantissa(layer, 6)
    assert torch.equal(layer.weight, again)


def test_latents_are_scaled_to_the_asked_spread():
    pool = [random_pair(np.random.default_rng(index), SIDE) for index in range(3)]
    vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                          num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
    scale_latents(vae, pool, 2.5)
    pixels = torch.cat([to_tensor(pair.defect[None]) for pair in pool])
    assert float(encode(vae, pixels).detach().std()) == pytest.approx(2.5, rel=1e-3)
