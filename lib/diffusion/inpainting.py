"""Training of a latent inpainting model: cached latents, and the denoising objective."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.diffusion.components import encode, to_tensor
from lib.diffusion.training import min_snr_weight


@dataclass(frozen=True)
class Cache:
    """N training samples as the U-Net sees them; encoded once, read in every step.

    latents, masked: (N, 4, h, w), scaled latents of the picture, and of the picture with its box blanked. masks: (N, 1,
    h, w) in {0, 1}. captions: for each sample the rows of its captions in the embedding table.
    """

    latents: Tensor
    masked: Tensor
    masks: Tensor
    captions: tuple[tuple[int, ...], ...]


@torch.inference_mode()
def encode_views(vae: Any, views: Iterable[tuple[Any, Any, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Encode batches of (pictures (B, S, S, 3) uint8, masks (B, S, S) bool, seeds (B,) int64) into `Cache` tensors.

    The masked picture is grey (0 in [-1, 1]) inside its mask, as usual for latent inpainting. Each view has its own
    generator on the CPU, with the view's seed, so that its latents depend neither on the batch nor on the device.
    """
    where = next(vae.parameters()).device
    latents, masked, small = [], [], []
    for pictures, masks, seeds in views:
        draws = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        pixels = to_tensor(pictures).to(where)
        holes = torch.from_numpy(masks)[:, None].float().to(where)
        latents.append(encode(vae, pixels, draws).float())
        masked.append(encode(vae, blanked(pixels, holes), draws).float())
        small.append(latent_masks(holes, latents[-1]))
    return tuple(torch.cat(part).clone() for part in (latents, masked, small))  # type: ignore[return-value]


def blanked(pixels: Tensor, masks: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1], set to 0 (mid grey) where masks (B, 1, H, W) are at least 0.5."""
    return pixels * (masks < 0.5)


def latent_masks(masks: Tensor, latents: Tensor) -> Tensor:
    """Masks (B, 1, H, W) at the size of latents (B, C, h, w): a cell is masked if any of its pixels is.

    Diffusers takes the nearest pixel, which may lose holes smaller than a cell; for holes of whole cells both agree.
    """
    return nn.functional.adaptive_max_pool2d(masks, latents.shape[-2:])


def prediction_of(scheduler: Any) -> str:
    """What the U-Net of a base predicts: `epsilon` or `v_prediction`. Raises UserError for anything else."""
    prediction = str(scheduler.config.prediction_type)
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(
            f"base.model: its scheduler predicts {prediction!r}; a base has to predict epsilon or v_prediction"
        )
    return prediction


class InpaintingObjective(nn.Module):
    """Restore the picture from its masked version and its caption (MvP-Diff; section 3.2 of its training script).

    text: gives embeddings (B, T, D) for rows of captions; row `empty` is the empty caption. scheduler: that of the
    base, which defines the noise levels and whether the U-Net predicts the noise (epsilon: Stable Diffusion 1.5) or the
    velocity (v_prediction, Salimans & Ho 2022: Stable Diffusion 2 and the embedded base). A subclass can weight pixels
    and noise levels differently: `mean_error`, `draw_timestep`.
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
    ) -> None:
        super().__init__()
        self.unet, self.text, self.empty, self.cache = unet, text, empty, cache
        self.gamma, self.dropout = min_snr_gamma, caption_dropout
        self.prediction = prediction_of(scheduler)
        where = cache.latents.device
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.to(where)

    def forward(self, indices: Tensor, draws: list[torch.Generator]) -> Tensor:
        """Losses (b,): mean squared error of the prediction, weighted by min-SNR where `min_snr_gamma` is given."""
        where = self.alphas_cumprod.device
        rows = indices.to(where)
        latents, masked, masks = self.cache.latents[rows], self.cache.masked[rows], self.cache.masks[rows]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in draws]).to(where)
        timesteps = torch.cat([self.draw_timestep(draw) for draw in draws]).to(where)
        captions = [self.draw_caption(index, draw) for index, draw in zip(indices.tolist(), draws, strict=True)]

        level = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        prediction = self.unet(torch.cat([noisy, masks, masked], dim=1), timesteps, self.text(captions)).sample
        target = noise if self.prediction == "epsilon" else level.sqrt() * noise - (1 - level).sqrt() * latents
        errors = self.mean_error((prediction.float() - target).square(), masks)
        if self.gamma is None:
            return errors
        return min_snr_weight(self.alphas_cumprod, timesteps, self.gamma, self.prediction) * errors

    def mean_error(self, squares: Tensor, masks: Tensor) -> Tensor:
        """Error of each sample, (b,), from squared errors (b, 4, h, w) and masks (b, 1, h, w): here the plain mean."""
        return squares.mean(dim=(1, 2, 3))

    def draw_timestep(self, draw: torch.Generator) -> Tensor:
        """(1,) int64, uniform over all noise levels."""
        return torch.randint(len(self.alphas_cumprod), (1,), generator=draw)

    def draw_caption(self, index: int, draw: torch.Generator) -> int:
        """The row of one of the sample's captions, or of the empty one, on which guidance relies."""
        captions = self.cache.captions[index]
        drop = torch.rand((), generator=draw).item() < self.dropout
        caption = captions[int(torch.randint(len(captions), (1,), generator=draw))]
        return self.empty if drop else caption
