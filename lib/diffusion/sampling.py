"""Batched latent inpainting with classifier-free guidance, and the autoencoder's round trip of the input."""

import math
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from lib.core.errors import UserError
from lib.core.params import Synth
from lib.core.runtime import cores, on_cores
from lib.diffusion.components import Components, decode, encode
from lib.diffusion.inpainting import blanked, latent_masks
from lib.diffusion.pixel import starting_noise

# All are deterministic given the starting noise, so that a sample depends on its own seed only.
SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
}

# Names of the settings that `latent_noise` and `inpaint` depend on.
SAMPLER_SETTINGS = tuple(
    f"synth.{name}" for name in ("scheduler", "steps", "guidance_scale", "guidance_share", "strength", "noise_blur")
)


class Painted(NamedTuple):
    """The result of a batch, each (B, 3, S, S) in [-1, 1].

    round_trip: the input, encoded and decoded: the difference to it is the change without the autoencoder's error.
    other: the sample for the second text.
    """

    generated: Tensor
    round_trip: Tensor
    other: Tensor | None = None


def latent_noise(seeds: list[int], parts: Components, blur: float) -> Tensor:
    """The `starting_noise` (B, 4, h, w) of a base's latents.

    blur: as a share of the side, the standard deviation of a Gaussian blur of the noise that is subtracted from it, so
    that it has no low frequencies; the rest is scaled to unit variance. In training the last noise level still holds
    some signal, and the model learns to read brightness and colour of the hole from its low frequencies (Lin et al.
    2024); those of random noise would tint the defect. Raises UserError for a blur of less than half a latent cell,
    which would leave no noise.
    """
    side = int(parts.unet.config.sample_size)
    if 0 < blur * side < 0.5:
        raise UserError(
            f"synth.noise_blur: {blur} of this base's {side} latent cells is a blur of less than half a cell; set 0 to "
            f"leave the noise as it is, or at least {math.ceil(500 / side) / 1000}"
        )
    channels = int(parts.unet.config.out_channels)
    noise = starting_noise(seeds, (channels, side, side))
    return torch.stack([_without_slow_waves(one, blur * side) for one in noise]) if blur > 0 else noise


def _without_slow_waves(noise: Tensor, sigma: float) -> Tensor:
    waves = [cv2.GaussianBlur(channel, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for channel in noise.numpy()]
    rest = noise - torch.from_numpy(np.stack(waves))
    return rest / rest.std()


def inpaint(
    parts: Components,
    pixels: Tensor,
    masks: Tensor,
    text: Tensor,
    empty: Tensor,
    noise: Tensor,
    settings: Synth,
    keep_background: bool = False,
    other_text: Tensor | None = None,
) -> Painted:
    """Repaint the masked part of a batch of pictures according to the text.

    pixels: (B, 3, S, S) in [-1, 1]; masks: (B, 1, S, S) in {0, 1}, 1 where to paint; text: (B, T, D) embeddings of the
    prompts; empty: (1, T, D) embedding of the empty prompt; noise: (B, 4, S/f, S/f) standard normal.
    other_text: (B, T, D), a second text, for which the same noise is denoised once more, without guidance (as the two
    texts of DiffEdit: Couairon et al. 2023, section 3.1).
    Guidance (Ho & Salimans 2022, eq. 6) acts in the first `guidance_share` of the steps, which decide the content
    (Kynkäänniemi et al. 2024 also limit it to an interval); with a scale of 1 there is none. Strength: Meng et al.
    2022. keep_background: after every step the latents outside the mask are reset to those of the input at the noise
    level of the next step (Song et al. 2025; Lugmayr et al. 2022, eq. 8).
    On a CPU every core takes a part of the batch. Raises UserError for more steps than the model has noise levels.
    """
    levels = parts.scheduler.config.num_train_timesteps
    if settings.steps > levels:
        raise UserError(f"synth.steps: {settings.steps} steps, at most {levels}, the noise levels of the base model")
    shares = min(cores(noise.device), len(noise))
    texts = text[:, None] if other_text is None else torch.stack([text, other_text], dim=1)
    done = on_cores(
        noise.device,
        partial(_inpaint, parts, settings, empty, keep_background),
        *(whole.tensor_split(shares) for whole in (pixels, masks, texts, noise)),
    )
    generated, round_trip, *other = (torch.cat(some) for some in zip(*done, strict=True))
    return Painted(generated, round_trip, *other)


@torch.inference_mode()
def _inpaint(
    parts: Components,
    settings: Synth,
    empty: Tensor,
    keep_background: bool,
    pixels: Tensor,
    masks: Tensor,
    texts: Tensor,
    noise: Tensor,
) -> tuple[Tensor, ...]:
    """`inpaint` for a share of a batch; texts: (B, 1 or 2, T, D); guidance acts on the first.

    Returns the samples for the first text, the round trip and, with two texts, the samples for the second.
    """
    scheduler = SCHEDULERS[settings.scheduler].from_config(parts.scheduler.config)
    scheduler.set_timesteps(settings.steps, device=noise.device)
    skipped = settings.steps - max(1, min(int(settings.steps * settings.strength), settings.steps))
    timesteps = scheduler.timesteps[skipped * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * scheduler.order)

    # Noise levels and states are float32, whatever type the weights have: `add_noise` would cast its levels to theirs.
    normal, blank = encode(parts.vae, torch.cat([pixels, blanked(pixels, masks)])).float().chunk(2)
    # Also at a strength of 1: the last noise level of Stable Diffusion still holds some signal, from which the model
    # has learned to read the brightness of the hole (Lin et al. 2024). In pure noise it would read mid grey and paint
    # that.
    latents = scheduler.add_noise(normal, noise, timesteps[:1].repeat(len(noise)))

    count, samples = len(noise), texts.shape[1] * len(noise)  # of each picture one sample per text
    small = latent_masks(masks, normal)
    latents = latents.repeat(texts.shape[1], 1, 1, 1)
    condition = torch.cat([small, blank], dim=1).repeat(texts.shape[1] + 1, 1, 1, 1).to(parts.unet.dtype)
    text = torch.cat([texts.transpose(0, 1).flatten(0, 1), empty.expand_as(texts[:, 0])]).to(parts.unet.dtype)
    guided = round(settings.guidance_share * len(timesteps)) if settings.guidance_scale != 1 else 0
    for number, timestep in enumerate(timesteps):
        noisy = scheduler.scale_model_input(latents, timestep).to(condition.dtype)
        if number < guided:
            noisy = torch.cat([noisy, noisy[:count]])  # the guided samples once more, without text
        rows = len(noisy)
        predicted = parts.unet(torch.cat([noisy, condition[:rows]], dim=1), timestep, text[:rows]).sample
        if number < guided:
            with_text, unguided, without = predicted.tensor_split((count, samples))
            predicted = torch.cat([without + settings.guidance_scale * (with_text - without), unguided])
        latents = scheduler.step(predicted.to(latents.dtype), timestep, latents).prev_sample
        if keep_background:
            following = timesteps[number + 1 : number + 2].repeat(count)
            background = scheduler.add_noise(normal, noise, following) if len(following) else normal
            inside = small.repeat(texts.shape[1], 1, 1, 1) > 0
            latents = torch.where(inside, latents, background.repeat(texts.shape[1], 1, 1, 1))
    return decode(parts.vae, torch.cat([latents[:count], normal, latents[count:]])).split(count)
