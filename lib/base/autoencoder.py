"""The autoencoder of the base: four latent channels, a quarter of the pictures' side, trained in three phases."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from lib.base.settings import CODE, CURVES, RENDERER, SIDE, BaseParams, Reconstruction
from lib.core.runtime import atomic_folder, device, fingerprint, source
from lib.dataset.surfaces import Pair
from lib.diffusion.components import to_tensor
from lib.diffusion.training import train

CHROMA_WEIGHT = 4.0  # of the error in colour, beside 1 of the error in pixels
CHROMA_CELL = 4  # pixels over which colour is averaged: it has no grain
REACHES = (1, 2)  # pixels between the neighbours whose difference is compared
VARIANCE_WEIGHT = 0.01  # of the latents' distance from unit variance
TEST_PICTURES = 64  # of the pool, on which the reconstruction is measured in the end


class ReconstructionObjective(nn.Module):
    """Absolute error of pixels, of their colour and of differences between neighbours, through a slightly noisy latent.

    The second term and the tinting of many views make up for the many grey pictures: without them all four
    latent channels learn brightness alone and every colour comes back grey (measured: still so after 2,400 steps).
    The third term keeps edges and grain, which the first alone would blur.
    """

    def __init__(self, vae: AutoencoderTiny, pool: list[Pair], settings: Reconstruction) -> None:
        super().__init__()
        self.vae, self.pool = vae, pool
        self.crop, self.noise, self.tint_share = settings.crop, settings.noise, settings.tint_share

    def forward(self, indices: Tensor, draws: list[torch.Generator]) -> Tensor:
        """Losses (b,) of the views that the samples' own generators draw."""
        pixels = torch.cat([self.view(index, draw) for index, draw in zip(indices.tolist(), draws, strict=True)])
        pixels = pixels.to(next(self.vae.parameters()).device).contiguous(memory_format=torch.channels_last)
        latents = self.vae.encode(pixels).latents
        noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in draws]).to(latents)
        output = self.vae.decode(latents + self.noise * noise).sample.float()
        error = _absolute(output - pixels) + CHROMA_WEIGHT * _absolute(chroma(output) - chroma(pixels))
        for axis in (-1, -2):
            for reach in REACHES:
                error = error + _absolute(slope(output, axis, reach) - slope(pixels, axis, reach))
        # Unit variance keeps latents off the decoder's clamp; what diffusion needs is up to `unet.scale_latents`.
        return error + VARIANCE_WEIGHT * (latents.float().square().mean(dim=(1, 2, 3)) - 1).square()

    def view(self, index: int, draw: torch.Generator) -> Tensor:
        """(1, 3, crop, crop) in [-1, 1]: a piece of either picture of a pair, turned, flipped, perhaps tinted."""
        pair = self.pool[index]
        defect, left_right, up_down, transpose = (torch.randint(2, (4,), generator=draw) > 0).tolist()
        image = pair.defect if defect else pair.normal
        y, x = torch.randint(SIDE - self.crop + 1, (2,), generator=draw).tolist()
        image = image[y : y + self.crop, x : x + self.crop]
        image = image[:: -1 if up_down else 1, :: -1 if left_right else 1]
        pixels = to_tensor(np.ascontiguousarray((image.swapaxes(0, 1) if transpose else image)[None]))
        chance, *tint = torch.rand(7, generator=draw).tolist()
        if chance < self.tint_share:
            gain, offset = torch.tensor(tint).view(2, 1, 3, 1, 1)  # of each channel: 0.3 to 1.2, and -0.8 to 0.8
            pixels = (pixels * (0.3 + 0.9 * gain) + 1.6 * (offset - 0.5)).clamp(-1, 1)
        return pixels


def chroma(pixels: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) minus their grey, averaged over cells: (B, 3, H / 4, W / 4)."""
    return nn.functional.avg_pool2d(pixels - pixels.mean(dim=1, keepdim=True), CHROMA_CELL)


def slope(pixels: Tensor, axis: int, reach: int) -> Tensor:
    """Differences between pixels `reach` apart along an axis, which becomes `reach` shorter."""
    length = pixels.shape[axis] - reach
    return pixels.narrow(axis, reach, length) - pixels.narrow(axis, 0, length)


def make_autoencoder(params: BaseParams, pool: list[Pair], base: Path) -> None:
    """Train the autoencoder in its three phases, print its PSNR, and save it as `base/vae` in half precision."""
    torch.manual_seed(params.seed)
    vae = new_autoencoder(params.autoencoder.width).to(device(), memory_format=torch.channels_last)
    key = fingerprint(params.seed, params.pool.model_dump(), RENDERER, *source(*CODE))
    phases = {"autoencoder": params.autoencoder, "sharpening": params.sharpening, "decoder": params.decoder}
    for name, settings in phases.items():
        vae.encoder.requires_grad_(name != "decoder")
        key = fingerprint(key, settings.model_dump())
        objective = ReconstructionObjective(vae, pool, settings)
        train(objective, len(pool), settings, params.seed, f"base-{name}", key, CURVES / name)
    print(f"PSNR {psnr(vae, pool[:TEST_PICTURES]):.2f} dB")
    with atomic_folder(base / "vae") as folder:
        vae.to(memory_format=torch.contiguous_format).half().save_pretrained(folder)


def new_autoencoder(width: int) -> AutoencoderTiny:
    """Random weights: `width` channels on three levels, so that a latent cell is 4 x 4 pixels."""
    widths = (width,) * 3
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=4,
        upsampling_scaling_factor=2,
    )


@torch.inference_mode()
def psnr(vae: AutoencoderTiny, pool: list[Pair]) -> float:
    """Mean peak signal-to-noise ratio in dB of defect pictures after the round trip; values reach from -1 to 1."""
    pixels = torch.cat([to_tensor(pair.defect[None]) for pair in pool]).to(vae.device)
    error = (vae.decode(vae.encode(pixels).latents).sample.clamp(-1, 1) - pixels).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def _absolute(difference: Tensor) -> Tensor:
    """Mean absolute value of each sample, (B,) from (B, C, H, W)."""
    return difference.abs().mean(dim=(1, 2, 3))
