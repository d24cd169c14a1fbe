"""Batched latent inpainting with a guidance scale, and the autoencoder's round trip beside it."""

from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from lib.core.params import Synth
from lib.diffusion.components import Components, decode, encode
from lib.diffusion.inpainting import blanked, latent_masks

# All of them are deterministic once the first noise is drawn, so that a sample's seed is its own.
SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
}


def starting_noise(seeds: list[int], parts: Components) -> Tensor:
    """Noise (B, 4, h, w), each sample's from its own CPU generator: equal in every batch, order and process."""
    side = int(parts.unet.config.sample_size)
    channels = int(parts.unet.config.out_channels)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn((channels, side, side), generator=draw) for draw in draws])


@torch.inference_mode()
def inpaint(
    parts: Components, pixels: Tensor, masks: Tensor, text: Tensor, empty: Tensor, noise: Tensor, settings: Synth
) -> tuple[Tensor, Tensor]:
    """Repaint the masked part of a batch of pictures as the text says.

    pixels: (B, 3, S, S) in [-1, 1]; masks: (B, 1, S, S) in {0, 1}, 1 where to paint; text: (B, T, D) embeddings of the
    prompts; empty: (1, T, D) embedding of the empty prompt; noise: (B, 4, S/f, S/f) standard normal.
    Returns (generated, round_trip), both (B, 3, S, S) in [-1, 1]; the round trip is the input through the autoencoder
    alone, against which the change is measured without the autoencoder's own error.
    Guidance: Ho & Salimans 2022, eq. 6, left out where the scale is 1. Strength: Meng et al. 2022 (SDEdit).
    """
    scheduler = SCHEDULERS[settings.scheduler].from_config(parts.scheduler.config)
    scheduler.set_timesteps(settings.steps, device=noise.device)
    skipped = settings.steps - max(1, min(int(settings.steps * settings.strength), settings.steps))
    timesteps = scheduler.timesteps[skipped * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * scheduler.order)

    normal = encode(parts.vae, pixels)
    blank = encode(parts.vae, blanked(pixels, masks))
    small = latent_masks(masks, normal)
    if settings.strength == 1:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(normal, noise, timesteps[:1].repeat(len(noise)))

    guided = settings.guidance_scale != 1
    condition = torch.cat([small, blank], dim=1)
    if guided:
        condition, text = condition.repeat(2, 1, 1, 1), torch.cat([empty.expand_as(text), text])
    condition, text = condition.to(parts.unet.dtype), text.to(parts.unet.dtype)
    for timestep in timesteps:
        noisy = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
        predicted = parts.unet(torch.cat([noisy.to(condition.dtype), condition], dim=1), timestep, text).sample
        if guided:
            without, with_text = predicted.chunk(2)
            predicted = without + settings.guidance_scale * (with_text - without)
        latents = scheduler.step(predicted.to(latents.dtype), timestep, latents).prev_sample
    both = decode(parts.vae, torch.cat([latents, normal]))
    generated, round_trip = both.chunk(2)
    return generated, round_trip
