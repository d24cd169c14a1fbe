"""The parts of a latent inpainting model, in the folder format of diffusers.

A base model is a folder or hub id in the layout of `StableDiffusionInpaintPipeline`: `unet` with nine input channels
in the order noisy latent (4), mask (1), latent of the masked picture (4); `vae`, `text_encoder`, `tokenizer` and
`scheduler`. The embedded tiny base and full-size Stable Diffusion take the same path through this code.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor

from lib.core.errors import UserError, first_line
from lib.core.params import Base
from lib.core.runtime import fingerprint

COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")  # of a base; each is a folder in its folder
# Diffusers warns of a key that it wrote itself, and of an autoencoder that its pipeline's type hints do not list.
QUIRKS = ("The config attributes {'block_out_channels'", "Expected types for vae")


def _no_quirk(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(QUIRKS)


for _module in ("diffusers.configuration_utils", "diffusers.pipelines.pipeline_utils"):
    logging.getLogger(_module).addFilter(_no_quirk)


@dataclass(frozen=True)
class Components:
    """One loaded base model; every part is frozen and in evaluation mode."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @property
    def resolution(self) -> int:
        """Side in pixels of the square pictures that the U-Net was trained on."""
        return int(self.unet.config.sample_size) * self.factor

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(block_channels(self.vae)) - 1)


def block_channels(vae: Any) -> Sequence[int]:
    """Channels per level of either kind of autoencoder; the tiny one stores a list for the encoder, which is used."""
    config = vae.config
    return config.encoder_block_out_channels if "encoder_block_out_channels" in config else config.block_out_channels


def load(base: Base, where: torch.device, dtype: torch.dtype = torch.float32) -> Components:
    """Load a base model onto a device; nothing is fetched unless `base.allow_download` is set.

    dtype: of all weights but the autoencoder's, which stay float32: what is painted is the difference of two decodings,
    and in half precision that would be off by a grey level. Convolutions use the memory format channels last, which is
    faster (`bench/finetune.py`, `bench/synth.py`).
    Raises UserError if the model is missing or does not have nine input channels.
    """
    folder = Path(base.model)
    if not folder.is_dir() and base.revision is None:
        raise UserError(f"base.revision: {base.model} is no local folder; a hub id needs the commit that is meant")
    try:
        pipeline = StableDiffusionInpaintPipeline.from_pretrained(
            str(folder) if folder.is_dir() else base.model,
            revision=base.revision,
            local_files_only=not base.allow_download,
            use_safetensors=True,
            dtype={"vae": torch.float32, "default": dtype},
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        reason = first_line(error)
        if folder.is_dir():
            raise UserError(f"base.model: the folder {folder} is no model in diffusers format: {reason}") from error
        if base.allow_download:
            raise UserError(f"base.model: {base.model} cannot be fetched at {base.revision}: {reason}") from error
        raise UserError(
            f"base.model: {base.model} is neither a folder nor, at revision {base.revision}, in the local cache, and "
            "nothing is fetched unasked: give a folder, or set base.allow_download=true"
        ) from error
    parts = Components(**{name: pipeline.components[name] for name in COMPONENTS})
    if parts.unet.config.in_channels != 9:
        raise UserError(
            f"base.model: the U-Net of {base.model} has {parts.unet.config.in_channels} input channels, an "
            "inpainting model has 9 (noisy latent 4, mask 1, masked picture 4)"
        )
    for module in (parts.unet, parts.vae, parts.text_encoder):
        module.requires_grad_(False).eval().to(where, memory_format=torch.channels_last)
    return parts


def as_pipeline(parts: Components) -> StableDiffusionInpaintPipeline:
    """The parts as a pipeline of diffusers, which can save them and load adapters and words into them."""
    return StableDiffusionInpaintPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(parts: Components, folder: Path) -> None:
    """Save all parts in the folder format of diffusers, with `model_index.json`."""
    as_pipeline(parts).save_pretrained(folder, safe_serialization=True)


def provenance(base: Base, out: Path) -> dict[str, str | None]:
    """The entries of model.json for a model in the folder `out`: base, revision of the base, hash of the model's files.

    The revision of a local base is the hash of its parts.
    """
    folder = Path(base.model)
    return {
        "base": base.model,
        "weights": fingerprint(*sorted(file for file in out.rglob("*") if file.is_file())),
        "revision": fingerprint(*(folder / part for part in COMPONENTS)) if folder.is_dir() else base.revision,
    }


def encode(vae: Any, pixels: Tensor, draws: list[torch.Generator] | None = None) -> Tensor:
    """Scaled latents (B, 4, H/f, W/f) of pictures (B, 3, H, W) in [-1, 1].

    draws: B generators, one per picture, with which a variational autoencoder is sampled, as in MvP-Diff; None: its
    mode.
    """
    output = vae.encode(pixels.to(vae.dtype))
    if hasattr(output, "latents"):  # the tiny autoencoder is deterministic
        latents = output.latents
    else:
        latents = output.latent_dist.sample(draws) if draws else output.latent_dist.mode()
    return latents * vae.config.scaling_factor


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) float32 in [-1, 1] from scaled latents (B, 4, H/f, W/f)."""
    return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample.float().clamp(-1, 1)


def tokenize(parts: Components, captions: Sequence[str]) -> Tensor:
    """Token ids (B, T) of captions, each padded or cut to the tokenizer's length T; a warning names one that is cut."""
    length = parts.tokenizer.model_max_length
    counts = [len(tokens) for tokens in parts.tokenizer(list(captions), truncation=False)["input_ids"]]
    if max(counts, default=0) > length:
        longest = captions[counts.index(max(counts))]
        warnings.warn(
            f"captions have up to {max(counts)} tokens, the base model reads {length}: the end of {longest!r} is lost; "
            "shorter names of category and types keep it",
            stacklevel=2,
        )
    tokens = parts.tokenizer(
        list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids.to(parts.text_encoder.device)


def embed(parts: Components, captions: Sequence[str]) -> Tensor:
    """Text embeddings (B, T, D) of captions."""
    return parts.text_encoder(tokenize(parts, captions))[0]


def to_tensor(images: Any) -> Tensor:
    """(B, H, W, 3) uint8 array to (B, 3, H, W) float32 tensor in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(tensor: Tensor) -> Any:
    """(B, 3, H, W) tensor in [-1, 1] to (B, H, W, 3) float32 array in [0, 255], not rounded."""
    return ((tensor.float() + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()
