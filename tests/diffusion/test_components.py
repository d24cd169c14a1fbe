"""The full-size layout, in miniature: what is saved can be loaded, by us and by diffusers' own pipeline."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline

from lib.core.errors import UserError
from lib.core.params import Base
from lib.diffusion.components import decode, embed, encode, load, save, to_pixels, to_tensor
from tests.tiny import random_pictures, tiny_components

CPU = torch.device("cpu")


def base(model: str | Path, revision: str | None = None, allow_download: bool = False) -> Base:
    return Base(model=str(model), revision=revision, allow_download=allow_download)


def test_a_saved_base_opens_in_diffusers_own_pipeline(tiny_base: Path):
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tiny_base, local_files_only=True, safety_checker=None)
    parts = load(base(tiny_base), CPU)
    assert pipeline.unet.config.in_channels == parts.unet.config.in_channels == 9
    assert parts.resolution == 32 and parts.factor == 2


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_both_kinds_of_autoencoder_give_scaled_latents_and_pictures(tmp_path: Path, kind: str):
    parts = tiny_components(tmp_path, kind)
    pixels = to_tensor(random_pictures(2))
    latents = encode(parts.vae, pixels)
    assert latents.shape == (2, 4, 16, 16)
    raw = parts.vae.encode(pixels)
    expected = raw.latents if kind == "tiny" else raw.latent_dist.mode()
    assert torch.allclose(latents, expected * parts.vae.config.scaling_factor)
    restored = decode(parts.vae, latents)
    assert restored.shape == pixels.shape and restored.abs().max() <= 1


def test_pixels_survive_the_way_to_a_tensor_and_back():
    pictures = random_pictures(3)
    assert np.array_equal(np.rint(to_pixels(to_tensor(pictures))), pictures)


def test_a_caption_is_padded_to_the_tokenizers_length(tmp_path: Path):
    parts = tiny_components(tmp_path)
    with pytest.warns(UserWarning, match=r"captions have up to \d+ tokens, the base model reads 77: the end of"):
        assert embed(parts, ["", "a scratch " * 60]).shape == (2, 77, 16)


def test_a_missing_model_says_so_in_one_sentence_and_nothing_is_fetched():
    with pytest.raises(UserError, match=r"base\.model: stable/none is neither a folder .*allow_download=true$"):
        load(base("stable/none", revision="abc"), CPU)


def test_a_hub_id_without_its_commit_is_refused_before_anything_is_fetched():
    with pytest.raises(UserError, match=r"base\.revision: stable/none is no local folder"):
        load(base("stable/none", allow_download=True), CPU)


def test_a_text_to_image_model_is_refused_with_the_reason(tmp_path: Path):
    parts = tiny_components(tmp_path / "tokens")
    config = {**parts.unet.config, "in_channels": 4}
    save(replace(parts, unet=type(parts.unet).from_config(config)), tmp_path / "model")
    with pytest.raises(UserError, match="4 input channels, an inpainting model has 9"):
        load(base(tmp_path / "model"), CPU)


def test_in_half_precision_the_autoencoder_stays_exact(tiny_base: Path):
    """What is painted is the difference of two decodings, in which its rounding would show."""
    parts, exact = load(base(tiny_base), CPU, torch.bfloat16), load(base(tiny_base), CPU)
    pixels = to_tensor(random_pictures(1))
    assert parts.unet.dtype == torch.bfloat16 and parts.vae.dtype == torch.float32
    change = decode(parts.vae, encode(parts.vae, pixels)) - decode(exact.vae, encode(exact.vae, pixels))
    assert not change.any()
