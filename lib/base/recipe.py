"""Make the embedded base model: `python -m lib.base.recipe autoencoder`, then `... unet`, as models/dvc.yaml does.

Both parts learn from endlessly varied rendered surfaces (lib/dataset/surfaces.py), never from the three workpiece
categories. A killed run continues.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import yaml
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from pydantic import Field
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib import language
from lib.core.geometry import box_mask, crop, resize, shift_window, window_around
from lib.core.params import Positive, Section, Share, Training
from lib.core.runtime import (
    atomic_folder,
    device,
    fingerprint,
    progress,
    replace_folder,
    seed_for,
    source,
    work_folder,
    write_bytes,
)
from lib.dataset.surfaces import Pair, random_pair
from lib.diffusion.components import PARTS, Components, save, to_tensor, tokenize
from lib.diffusion.inpainting import Cache, InpaintingObjective, encode_views
from lib.diffusion.training import train

BASE = Path("models/base")
RECIPE = Path("models/base.yaml")
RENDERER = Path("lib/dataset/surfaces.py")
CODE = ("lib.base", "lib.core", "lib.diffusion", "lib.language")  # makes other weights
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"  # of BASE; its config changes with the scale of latents
CURVES = Path(".work/base-curves")
CHROMA = 4.0  # weight of the error in colour
SIDE = 128  # pixels
ARRAYS = ("normal", "defect", "mask", "foreground")  # of a Pair, in its order
CHUNK = 250  # pairs rendered at a time
TOKENS = 48  # positions of the text encoder; the longest caption of a long name needs about 40
CAPTIONS = 8  # phrasings kept for each sample
MANTISSA = 6  # bits kept of the U-Net's weights: its predictions change by 0.2 %, and Git packs it a fifth smaller
LINES = ("crack", "scratch", "thread")  # a few pixels of a box each, and what a small network learns last


class Pool(Section):
    pairs: Positive
    normal_share: Share
    mask_share: Share


class Reconstruction(Training):
    crop: Positive  # pixels; the network is convolutional, so small pieces of many pictures teach more per second
    noise: Annotated[float, Field(ge=0)]
    tinted: Share


class Autoencoder(Reconstruction):
    width: Positive


class Inpainting(Training):
    views: Annotated[float, Field(gt=0)]
    line_views: Positive  # of pairs whose defect is one of LINES
    crop: Positive  # pixels
    largest_hole: Positive = SIDE  # pixels
    timesteps: tuple[int, int] | None = None
    timesteps_share: Share = 0.0
    outside_weight: Share
    min_snr_gamma: float | None
    caption_dropout: Share


class UNet(Inpainting):
    channels: tuple[int, ...]
    latent_std: Annotated[float, Field(gt=0)]


class OwnPairs(Inpainting):
    """A phase of the U-Net alone, on pictures of its own: the text encoder has learnt its words by then."""

    pairs: Positive


class Windows(OwnPairs):
    context: tuple[float, float]  # side of the window around a hole, in lengths of its longer side
    min_side: Positive  # pixels


class BaseParams(Section):
    seed: int
    pool: Pool
    autoencoder: Autoencoder
    sharpening: Reconstruction
    decoder: Reconstruction
    unet: UNet
    lines: Inpainting
    strokes: OwnPairs
    windows: Windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("autoencoder", "unet"))
    part = parser.parse_args().part
    params = BaseParams.model_validate(yaml.safe_load(RECIPE.read_text()))
    pool = rendered_pool(params.pool.pairs, params.seed)
    (make_autoencoder if part == "autoencoder" else make_unet)(params, pool)


# --------------------------------------------------------------------------------------------- rendered pictures


def rendered_pool(count: int, seed: int) -> list[Pair]:
    """Render the pairs, in parallel, once: both parts read the same pool from the work folder."""
    folder = work_folder("base-pool", fingerprint(RENDERER, seed, CHUNK, SIDE))
    chunks = range((count + CHUNK - 1) // CHUNK)
    with ProcessPoolExecutor() as workers:
        files = list(progress(workers.map(partial(_render_chunk, folder, seed), chunks), "render", total=len(chunks)))
    pairs: list[Pair] = []
    for file in files:
        with np.load(file) as stored:
            words = json.loads(str(stored["words"]))
            arrays = (stored[name] for name in ARRAYS)
            pairs += [Pair(*parts, *names) for *parts, names in zip(*arrays, words, strict=True)]
    return pairs[:count]


def _render_chunk(folder: Path, seed: int, chunk: int) -> Path:
    file = folder / f"{chunk:05d}.npz"
    if not file.exists():
        pairs = [random_pair(np.random.default_rng([seed, chunk, index]), SIDE) for index in range(CHUNK)]
        arrays = {name: np.stack([getattr(pair, name) for pair in pairs]) for name in ARRAYS}
        words = json.dumps([(pair.surface, pair.defect_type) for pair in pairs])
        with tempfile.TemporaryFile() as buffer:
            np.savez(buffer, allow_pickle=False, words=np.array(words), **arrays)
            buffer.seek(0)
            write_bytes(file, buffer.read())
    return file


# --------------------------------------------------------------------------------------------------- autoencoder


class ReconstructionObjective(nn.Module):
    """Absolute error of pixels, of their colour and of differences between neighbours, through a slightly noisy latent.

    The second term and the tinting of many views make up for the many grey pictures: without them all four
    latent channels learn brightness alone and every colour comes back grey (measured: still so after 2,400 steps).
    The third term keeps edges and grain, which the first alone would blur.
    """

    def __init__(self, vae: AutoencoderTiny, pool: list[Pair], settings: Reconstruction) -> None:
        super().__init__()
        self.vae, self.pool = vae, pool
        self.crop, self.noise, self.tinted = settings.crop, settings.noise, settings.tinted

    def forward(self, indices: Tensor, draws: list[torch.Generator]) -> Tensor:
        pixels = torch.cat([self._view(index, draw) for index, draw in zip(indices.tolist(), draws, strict=True)])
        pixels = pixels.to(next(self.vae.parameters()).device).contiguous(memory_format=torch.channels_last)
        latents = self.vae.encode(pixels).latents
        noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in draws]).to(latents)
        restored = self.vae.decode(latents + self.noise * noise).sample.float()
        error = (restored - pixels).abs().mean(dim=(1, 2, 3))
        error = error + CHROMA * (chroma(restored) - chroma(pixels)).abs().mean(dim=(1, 2, 3))
        for axis in (-1, -2):
            for reach in (1, 2):
                error = error + (slope(restored, axis, reach) - slope(pixels, axis, reach)).abs().mean(dim=(1, 2, 3))
        # Unit variance keeps latents off the decoder's clamp; what diffusion needs is up to `scale_latents`.
        return error + 0.01 * (latents.float().square().mean(dim=(1, 2, 3)) - 1).square()

    def _view(self, index: int, draw: torch.Generator) -> Tensor:
        pair = self.pool[index]
        defect, left_right, up_down, turned = (torch.randint(2, (4,), generator=draw) > 0).tolist()
        image = pair.defect if defect else pair.normal
        y, x = torch.randint(SIDE - self.crop + 1, (2,), generator=draw).tolist()
        image = image[y : y + self.crop, x : x + self.crop]
        image = image[:: -1 if up_down else 1, :: -1 if left_right else 1]
        pixels = to_tensor(np.ascontiguousarray((image.swapaxes(0, 1) if turned else image)[None]))
        tinted, *tint = torch.rand(7, generator=draw).tolist()
        if tinted < self.tinted:
            gain, offset = torch.tensor(tint).view(2, 1, 3, 1, 1)
            pixels = (pixels * (0.3 + 0.9 * gain) + 1.6 * (offset - 0.5)).clamp(-1, 1)
        return pixels


def chroma(pixels: Tensor) -> Tensor:
    """What is left of pictures (B, 3, H, W) without their grey, averaged over 4 x 4 pixels: colour has no grain."""
    return nn.functional.avg_pool2d(pixels - pixels.mean(dim=1, keepdim=True), 4)


def slope(pixels: Tensor, axis: int, reach: int) -> Tensor:
    """Differences between pixels `reach` apart along an axis."""
    length = pixels.shape[axis] - reach
    return pixels.narrow(axis, reach, length) - pixels.narrow(axis, 0, length)


def make_autoencoder(params: BaseParams, pool: list[Pair]) -> None:
    torch.manual_seed(params.seed)
    widths = (params.autoencoder.width,) * 3
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=4,
        upsampling_scaling_factor=2,
    ).to(device(), memory_format=torch.channels_last)
    key = fingerprint(params.seed, params.pool.model_dump(), RENDERER, *source(*CODE))
    for name, settings in (
        ("autoencoder", params.autoencoder),
        ("sharpening", params.sharpening),
        ("decoder", params.decoder),
    ):
        vae.encoder.requires_grad_(name != "decoder")
        key = fingerprint(key, settings.model_dump())
        objective = ReconstructionObjective(vae, pool, settings)
        train(objective, len(pool), settings, params.seed, f"base-{name}", key, CURVES / name)
    with torch.inference_mode():
        pixels = torch.cat([to_tensor(pair.defect[None]) for pair in pool[:64]]).to(device())
        error = (vae.decode(vae.encode(pixels).latents).sample.clamp(-1, 1) - pixels).square().mean(dim=(1, 2, 3))
        print(f"PSNR {float((10 * torch.log10(4 / error)).mean()):.2f} dB")
    with atomic_folder(BASE / "vae") as folder:
        vae.to(memory_format=torch.contiguous_format).half().save_pretrained(folder)


# --------------------------------------------------------------------------------------------------------- U-Net


def make_unet(params: BaseParams, pool: list[Pair]) -> None:
    torch.manual_seed(params.seed)
    vae = AutoencoderTiny.from_pretrained(BASE / "vae", dtype=torch.float32)
    vae.requires_grad_(False).eval().to(device(), memory_format=torch.channels_last)
    texts = (_captions(pair, index, params.seed) for index, pair in enumerate(pool))
    tokenizer = make_tokenizer(sorted({text for kinds in texts for captions in kinds for text in captions}))
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=params.windows.crop // 4,
        in_channels=9,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=params.unet.channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # Stable Diffusion's own noise schedule. Velocity instead of noise is predicted (Salimans & Ho 2022), and sampling
    # begins at the last timestep: a small network's errors in predicted noise would be amplified fifteenfold there
    # and shift the colour of the whole box.
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    parts = Components(unet.to(device()), vae, text_encoder.to(device()), tokenizer, scheduler)
    scale_latents(vae, pool, params.unet.latent_std)
    unet.to(memory_format=torch.channels_last)
    key = fingerprint(params.pool.model_dump(), params.seed, RENDERER, BASE / VAE_WEIGHTS, *source(*CODE))
    phases: tuple[tuple[str, Inpainting], ...] = (
        ("unet", params.unet),
        ("lines", params.lines),
        ("strokes", params.strokes),
        ("windows", params.windows),
    )
    for name, settings in phases:
        if isinstance(settings, OwnPairs):
            pool = rendered_pool(settings.pairs, seed_for(params.seed, name))
            parts.text_encoder.requires_grad_(False)
        key = fingerprint(key, settings.model_dump())
        train_unet(name, settings, parts, pool, params, key)
    unet.to(memory_format=torch.contiguous_format)
    with tempfile.TemporaryDirectory(dir=BASE, prefix="made.tmp-") as folder:
        round_mantissa(unet, MANTISSA)
        save(Components(unet.half(), vae.half(), text_encoder.half(), tokenizer, scheduler), Path(folder))
        for name in PARTS:
            replace_folder(Path(folder, name), BASE / name)
        write_bytes(BASE / "model_index.json", Path(folder, "model_index.json").read_bytes())


@torch.no_grad()
def round_mantissa(module: nn.Module, bits: int) -> None:
    """Round every weight to `bits` bits behind its first one, so that the others are zero and compress well."""
    for weight in module.parameters():
        mantissa, exponent = torch.frexp(weight)
        weight.copy_(torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent))


def train_unet(
    name: str,
    settings: Inpainting,
    parts: Components,
    pool: list[Pair],
    params: BaseParams,
    key: str,
) -> None:
    """One phase of training U-Net and text encoder; its samples are encoded once, also when the run is killed."""
    captions = [_captions(pair, index, params.seed) for index, pair in enumerate(pool)]
    chosen = samples(pool, captions, settings, params.pool, seed_for(params.seed, name))
    encoded = work_folder(f"base-latents-{name}", key) / "latents.safetensors"
    if not encoded.exists():
        tensors = zip(("latents", "masked", "masks"), encode_views(parts.vae, in_batches(chosen)), strict=True)
        write_bytes(encoded, as_bytes({part: tensor.contiguous() for part, tensor in tensors}))
    table: dict[str, int] = {"": 0}
    rows = tuple(tuple(table.setdefault(text, len(table)) for text in texts[:CAPTIONS]) for _, _, texts in chosen)
    cache = Cache(**load_file(encoded, str(parts.unet.device)), captions=rows)
    objective = InpaintingObjective(
        unet=parts.unet,
        text=TrainedText(parts, list(table)),
        empty=0,
        cache=cache,
        scheduler=parts.scheduler,
        min_snr_gamma=settings.min_snr_gamma,
        caption_dropout=settings.caption_dropout,
        outside_weight=settings.outside_weight,
        timesteps=settings.timesteps,
        timesteps_share=settings.timesteps_share,
    )
    train(objective, len(rows), settings, params.seed, f"base-{name}", key, CURVES / name)


@torch.inference_mode()
def scale_latents(vae: AutoencoderTiny, pool: list[Pair], std: float) -> None:
    """Set the factor that scales latents, so that their standard deviation is `std`.

    A latent's spread is mostly brightness and colour, which a hole's surround tells; texture and defects have about a
    third of it. At unit variance they drown in the noise of all but the last few steps of sampling, where nothing
    coherent can form any more (how the scale of the input shifts a noise schedule: Chen 2023, section 2.2).
    """
    pixels = torch.cat([to_tensor(pair.defect[None]) for pair in pool[:64]]).to(vae.device)
    vae.register_to_config(scaling_factor=round(std / float(vae.encode(pixels).latents.std()), 4))


class TrainedText(nn.Module):
    """The text encoder inside of the loop: unlike in fine-tuning its weights still move, so only tokens are cached."""

    def __init__(self, parts: Components, texts: list[str]) -> None:
        super().__init__()
        self.encoder, self.tokens = parts.text_encoder, tokenize(parts, texts)

    def forward(self, rows: list[int]) -> Tensor:
        return self.encoder(self.tokens[rows])[0]


def _captions(pair: Pair, index: int, seed: int) -> tuple[list[str], list[str]]:
    """Captions of the pair's defect and of its normal picture.

    The place that a caption names is that of the window in an imagined larger picture, which the window does not show:
    the pipeline, too, describes the place in the whole picture and generates in a window.
    """
    rng = np.random.default_rng([seed, 7, index])
    places = [language.location_of((x, y), 3, 3) for x, y in rng.uniform(0, 3, (2, 2))]
    category = pair.surface.replace(" ", "_")
    defect = [text for place in places for text in language.captions(pair.defect_type, category, place)]
    return defect, [language.normal_caption(category)]


def samples(
    pool: list[Pair], captions: list[tuple[list[str], list[str]]], settings: Inpainting, shares: Pool, seed: int
) -> list[tuple[Any, Any, list[str]]]:
    """Pieces of each pair's defect picture, and for some also of the normal one, with their hole and captions.

    Of less than one view for each pair, as many pairs have one as make that share. Holes that are too large have none.
    """
    chosen = []
    for index, pair in enumerate(pool):
        spread = int((index + 1) * settings.views) - int(index * settings.views)
        for view in range(settings.line_views if pair.defect_type in LINES else spread):
            rng = np.random.default_rng([seed, index, view])
            whole = hole_of(pair, rng, shares.mask_share)
            if max(np.ptp(extent) + 1 for extent in np.nonzero(whole)) > settings.largest_hole:
                continue
            arrays = turned((pair.defect, pair.normal, whole), rng)
            if isinstance(settings, Windows):
                defect, normal, hole = window_of(arrays, settings, rng)
            else:
                defect, normal, hole = piece(arrays, settings.crop, rng)
            chosen.append((defect, hole, captions[index][0]))
            if rng.random() < shares.normal_share:
                chosen.append((normal, hole, captions[index][1]))
    return chosen


def in_batches(chosen: list[tuple[Any, Any, list[str]]]) -> Iterator[tuple[Any, Any, Tensor]]:
    for start in progress(range(0, len(chosen), 64), "encode"):
        images, holes, _ = zip(*chosen[start : start + 64], strict=True)
        yield np.stack(images), np.stack(holes), torch.tensor([start])


def piece(arrays: tuple[Any, ...], side: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """The same piece (side, side) of arrays (SIDE, SIDE, ...); of the hole, which is the last of them, it shows all, or
    as much as it can hold."""
    starts = []
    for extent in np.nonzero(arrays[-1]):
        low, high = np.clip(sorted((int(extent.max()) + 1 - side, int(extent.min()))), 0, SIDE - side)
        starts.append(int(rng.integers(low, high + 1)))
    y, x = starts
    return tuple(np.ascontiguousarray(array[y : y + side, x : x + side]) for array in arrays)


def turned(arrays: tuple[Any, ...], rng: np.random.Generator) -> tuple[Any, ...]:
    """Arrays (SIDE, SIDE, ...), all of them turned and flipped alike."""
    turns, flipped = int(rng.integers(4)), bool(rng.integers(2))
    return tuple(np.rot90(array, turns)[:: -1 if flipped else 1] for array in arrays)


def window_of(arrays: tuple[Any, ...], settings: Windows, rng: np.random.Generator) -> tuple[Any, ...]:
    """The same window of arrays (SIDE, SIDE, ...) around the hole, which is the last of them, as the pipeline cuts it:
    some lengths of the hole wide, a little off its centre, resized to `crop` pixels."""
    left, top, wide, high = cv2.boundingRect(arrays[-1].astype(np.uint8))
    box = (left, top, left + wide, top + high)
    window = window_around(box, (SIDE, SIDE), rng.uniform(*settings.context), settings.min_side)
    spare = [(window.side - extent) // 4 for extent in (wide, high)]
    window = shift_window(window, [int(rng.integers(-most, most + 1)) for most in spare], box, (SIDE, SIDE))
    return tuple(resize(crop(array, window), settings.crop, settings.crop) for array in arrays)


def hole_of(pair: Pair, rng: np.random.Generator, mask_share: float) -> Any:
    """(SIDE, SIDE) bool: the defect's box with a random margin, or now and then its own shape, grown."""
    if rng.random() < mask_share:
        reach = int(rng.integers(1, 6))
        return cv2.dilate(pair.mask.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    rows, columns = np.nonzero(pair.mask)
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    margins = 1 + np.rint(rng.uniform(0, 0.35, 4) * longer).astype(int)
    x0, y0 = int(columns.min() - margins[0]), int(rows.min() - margins[1])
    x1, y1 = int(columns.max() + margins[2]), int(rows.max() + margins[3])
    return box_mask((x0, y0, x1, y1), SIDE, SIDE)


def make_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format: all bytes, and the merges that spell the captions' words."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1400, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator((text.lower() for text in texts), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        Path(folder, "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


if __name__ == "__main__":
    main()
