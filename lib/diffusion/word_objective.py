"""The three losses by which DefectFill (Song et al., CVPR 2025) teaches a base model words for defects.

From pairs of picture I and mask M the model learns the word [V*]:

- defect loss (eq. 5): restore the defect in a hole of its shape, with the prompt "A photo of [V*]"; only M counts;
- object loss (eq. 7): restore the object in random boxes, with the prompt "A <object> with [V*]"; residuals are
  weighted by M' = M + alpha (1 - M) before they are squared;
- attention loss (eq. 8): the cross-attention of the decoder to [V*] equals M.

The first two are errors of the base's prediction, noise or velocity. They are weighted means, so that their balance
does not depend on the size of defects.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from lib.core.geometry import Mask
from lib.core.params import Finetune, Positive, Section, Share
from lib.diffusion.attention import attention_maps, word_map
from lib.diffusion.components import Components, encode, to_tensor
from lib.diffusion.inpainting import blanked, latent_masks, prediction_of
from lib.diffusion.training import min_snr_weight
from lib.diffusion.words import word_positions

BOX_SIDES = (0.03, 0.25)  # of the random boxes, in shares of the picture's side; published

Weight = Annotated[float, Field(ge=0)]


class Losses(Section):
    """Weights of the losses; published: 0.5, 0.2, 0.05, a background of 0.3, the object pass, 30 boxes."""

    defect_weight: Weight
    object_weight: Weight
    attention_weight: Weight
    background: Share
    attention_pass: Literal["object", "defect"]
    random_boxes: Positive


@dataclass(frozen=True)
class Views:
    """N training views: pictures (N, S, S, 3) uint8; their latents, and those with the defect blanked, (N, 4, h, w);
    masks of the defects (N, 1, h, w) in {0, 1}; numbers of their types (N,)."""

    pictures: NDArray[np.uint8]
    latents: Tensor
    masked: Tensor
    masks: Tensor
    types: Tensor


@dataclass(frozen=True)
class Prompts:
    """Token ids: of both prompts of every type (types, T), of the empty prompt (T,), and of the words (types,)."""

    defect: Tensor
    object: Tensor
    empty: Tensor
    words: Tensor


def random_boxes(count: int, side: int, draw: torch.Generator) -> Mask:
    """(side, side) bool: the union of `count` boxes inside the picture, with sides uniform in BOX_SIDES."""
    low, high = (round(share * side) for share in BOX_SIDES)
    extents = torch.randint(max(low, 1), high + 1, (count, 2), generator=draw)
    starts = (torch.rand((count, 2), generator=draw) * (side - extents + 1)).long()
    mask = np.zeros((side, side), dtype=bool)
    for (x, y), (width, height) in zip(starts.tolist(), extents.tolist(), strict=True):
        mask[y : y + height, x : x + width] = True
    return mask


def object_weights(masks: Tensor, background: float) -> Tensor:
    """M' = M + alpha (1 - M) of eq. 7."""
    return masks + background * (1 - masks)


def weighted_error(residuals: Tensor, weights: Tensor) -> Tensor:
    """Mean of (w r)^2, normalised by w^2, (b,): of residuals r (b, C, h, w) with weights w (b, 1, h, w).

    Eq. 5 with w = M, eq. 7 with w = M', each divided by the mean of w^2.
    """
    squares = (weights * residuals).square().mean(dim=1, keepdim=True)
    return squares.sum(dim=(1, 2, 3)) / weights.square().sum(dim=(1, 2, 3)).clamp(min=1e-6)


class WordObjective(nn.Module):
    """0.5 L_def + 0.2 L_obj + 0.05 L_attn (eq. 9), both passes in one call of the U-Net.

    Beyond the paper, `finetune.min_snr_gamma` weighs the first two terms by noise level, and not the third. Each pass
    has its own noise level and noise. A sample whose caption is dropped has no attention loss.
    """

    def __init__(
        self,
        parts: Components,
        prompts: Prompts,
        views: Views,
        settings: Losses,
        shared: Finetune,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder = parts.unet, parts.text_encoder
        self.prompts, self.views, self.settings, self.shared = prompts, views, settings, shared
        self.encode_pixels = lambda pixels: encode(parts.vae, pixels)
        self.prediction = prediction_of(parts.scheduler)
        self.alphas_cumprod: Tensor = parts.scheduler.alphas_cumprod.to(views.latents.device)

    def forward(self, indices: Tensor, draws: list[torch.Generator]) -> Tensor:
        """Losses (b,)."""
        where, views, settings = self.alphas_cumprod.device, self.views, self.settings
        rows, count = indices.to(where), len(indices)
        latents, masks, types = views.latents[rows], views.masks[rows], views.types[rows]
        random_masks, random_masked = self._through_random_boxes(indices, draws)
        ids, positions = self._prompts(types, draws)

        # First the defect pass of every sample, then its object pass.
        latents = latents.repeat(2, 1, 1, 1)
        noise = torch.stack([torch.randn((2, *latents.shape[1:]), generator=draw) for draw in draws], dim=1)
        noise = noise.flatten(0, 1).to(where)
        drawn = [torch.randint(len(self.alphas_cumprod), (2,), generator=draw) for draw in draws]
        timesteps = torch.stack(drawn, dim=1).flatten().to(where)
        level = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        target = noise if self.prediction == "epsilon" else level.sqrt() * noise - (1 - level).sqrt() * latents
        holes, backgrounds = torch.cat([masks, random_masks]), torch.cat([views.masked[rows], random_masked])
        with attention_maps() as maps:
            text = self.text_encoder(ids)[0]
            prediction = self.unet(torch.cat([noisy, holes, backgrounds], dim=1), timesteps, text).sample

        weights = torch.cat([masks, object_weights(masks, settings.background)])
        errors = weighted_error(prediction.float() - target, weights)
        if self.shared.min_snr_gamma is not None:
            errors *= min_snr_weight(self.alphas_cumprod, timesteps, self.shared.min_snr_gamma, self.prediction)
        half = slice(count, None) if settings.attention_pass == "object" else slice(count)
        looks = word_map([layer[half] for layer in maps], positions[half].clamp(min=0), masks.shape[-2:])
        attention = (looks - masks).square().mean(dim=(1, 2, 3)) * (positions[half] >= 0)
        return total_loss(errors[:count], errors[count:], attention, settings)

    def _through_random_boxes(self, indices: Tensor, draws: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Random boxes of each sample at the size of the latents, and the latents of its picture with these blanked."""
        where = self.alphas_cumprod.device
        pictures = self.views.pictures[indices.cpu().numpy()]
        boxes = [random_boxes(self.settings.random_boxes, pictures.shape[1], draw) for draw in draws]
        holes = torch.from_numpy(np.stack(boxes))[:, None].float().to(where)
        with torch.no_grad():
            masked = self.encode_pixels(blanked(to_tensor(pictures).to(where), holes)).float()
        return latent_masks(holes, masked), masked

    def _prompts(self, types: Tensor, draws: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Token ids (2b, T) of the prompts of both passes, and positions of their words (2b,), -1 if dropped."""
        dropped = torch.tensor([torch.rand((), generator=draw).item() < self.shared.caption_dropout for draw in draws])
        dropped = dropped.repeat(2).to(types.device)
        ids = torch.cat([self.prompts.defect[types], self.prompts.object[types]])
        positions = word_positions(ids, self.prompts.words[types].repeat(2))
        ids = torch.where(dropped[:, None], self.prompts.empty, ids)
        return ids, torch.where(dropped, -1, positions)


def total_loss(defect: Tensor, whole: Tensor, attention: Tensor, settings: Losses) -> Tensor:
    """Eq. 9."""
    return settings.defect_weight * defect + settings.object_weight * whole + settings.attention_weight * attention
