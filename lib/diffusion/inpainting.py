"""What a latent inpainting model is trained on: cached latents, and the denoising objective over them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.diffusion.components import encode, to_tensor
from lib.diffusion.training import min_snr_weight


@dataclass(frozen=True)
class Cache:
    """N training samples as the U-Net sees them; encoded once, read in every step.

    latents, masked: (N, 4, h, w), the picture and the picture with its box blanked, scaled. masks: (N, 1, h, w) in
    {0, 1}. captions: for each sample the rows of the embedding table that say what is in it.
    """

    latents: Tensor
    masked: Tensor
    masks: Tensor
    captions: tuple[tuple[int, ...], ...]


@torch.inference_mode()
def encode_views(vae: Any, views: Iterable[tuple[Any, Any, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Encode batches of (pictures (B, S, S, 3) uint8, masks (B, S, S) bool, seeds (B,) int64) into `Cache` tensors.

    The masked picture is grey (0 in [-1, 1]) inside of its mask, as in latent-diffusion inpainting.
    """
    where = next(vae.parameters()).device
    latents, masked, small = [], [], []
    for pictures, masks, seeds in views:
        generator = torch.Generator(where).manual_seed(int(seeds[0]))
        pixels = to_tensor(pictures).to(where)
        holes = torch.from_numpy(masks)[:, None].float().to(where)
        latents.append(encode(vae, pixels, generator).float())
        masked.append(encode(vae, blanked(pixels, holes), generator).float())
        small.append(latent_masks(holes, latents[-1]))
    return tuple(torch.cat(part).clone() for part in (latents, masked, small))  # type: ignore[return-value]


def blanked(pixels: Tensor, masks: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] with zero, which is mid grey, wherever masks (B, 1, H, W) are 0.5 or more."""
    return pixels * (masks < 0.5)


def latent_masks(masks: Tensor, latents: Tensor) -> Tensor:
    """Masks (B, 1, H, W) at the size of latents (B, C, h, w): a cell is masked where any of its pixels is.

    Diffusers takes the nearest pixel, by which a hole smaller than a cell may vanish; where holes fill whole cells the
    two agree.
    """
    return nn.functional.adaptive_max_pool2d(masks, latents.shape[-2:])


class InpaintingObjective(nn.Module):
    """Restore the picture from its boxed-out version and its caption (MvP-Diff; section 3.2 of its training script).

    `text` gives embeddings (B, T, D) for rows of captions; row `empty` is the empty caption. `scheduler` is the base's:
    it says how noise is mixed in, and whether the U-Net predicts the noise (epsilon: Stable Diffusion 1.5) or the
    velocity (v_prediction, Salimans & Ho 2022: Stable Diffusion 2 and the embedded base). `outside_weight` is that of
    the error outside of the mask beside 1 inside of it; published: 1. `timesteps_share` of the samples draw theirs
    between the two `timesteps` alone; published: none.
    """

    def __init__(
        self,
        unet: nn.Module,
        text: Any,
        empty: int,
        cache: Cache,
        scheduler: Any,
        min_snr_gamma: float | None,
        caption_dropout: float,
        outside_weight: float = 1.0,
        timesteps: tuple[int, int] | None = None,
        timesteps_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.unet, self.text, self.empty, self.cache = unet, text, empty, cache
        self.gamma, self.dropout, self.outside = min_snr_gamma, caption_dropout, outside_weight
        self.timesteps, self.timesteps_share = timesteps, timesteps_share
        self.prediction = str(scheduler.config.prediction_type)
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"the base's scheduler predicts {self.prediction!r}, expected epsilon or v_prediction")
        where = cache.latents.device
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.to(where)

    def forward(self, indices: Tensor, draws: list[torch.Generator]) -> Tensor:
        """Losses (b,): mean squared error of the prediction, weighted by min-SNR where `min_snr_gamma` is given."""
        where = self.alphas_cumprod.device
        chosen = indices.to(where)
        latents, masked, masks = self.cache.latents[chosen], self.cache.masked[chosen], self.cache.masks[chosen]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in draws]).to(where)
        timesteps = torch.cat([self._timestep(draw) for draw in draws]).to(where)
        rows = [self._caption(index, draw) for index, draw in zip(indices.tolist(), draws, strict=True)]

        level = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        predicted = self.unet(torch.cat([noisy, masks, masked], dim=1), timesteps, self.text(rows)).sample
        target = noise if self.prediction == "epsilon" else level.sqrt() * noise - (1 - level).sqrt() * latents
        weights = masks + self.outside * (1 - masks)
        weights = weights / weights.mean(dim=(1, 2, 3), keepdim=True)
        errors = (weights * (predicted.float() - target).square()).mean(dim=(1, 2, 3))
        if self.gamma is None:
            return errors
        return min_snr_weight(self.alphas_cumprod, timesteps, self.gamma, self.prediction) * errors

    def _timestep(self, draw: torch.Generator) -> Tensor:
        """(1,) int64, even over all noise levels, or over some of them for a share of the samples."""
        low, high = 0, len(self.alphas_cumprod)
        if self.timesteps is not None and torch.rand((), generator=draw).item() < self.timesteps_share:
            low, high = self.timesteps
        return torch.randint(low, high, (1,), generator=draw)

    def _caption(self, index: int, draw: torch.Generator) -> int:
        """One of the sample's captions, or none: guidance needs a model that also knows the caption's absence."""
        choices = self.cache.captions[index]
        dropped = torch.rand((), generator=draw).item() < self.dropout
        chosen = choices[int(torch.randint(len(choices), (1,), generator=draw))]
        return self.empty if dropped else chosen
