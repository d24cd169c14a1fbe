"""MvP-Diff: inpaint a box of a good picture from a caption, and measure afterwards what changed.

After the public parts of `JJessicaYao/MvP-Diff`: an inpainting model learns to restore real defect pictures whose
defect is masked by a box, from captions that name the defect and its place (its section "training"). It then paints
into boxes of good pictures (its section "inference"). Intended differences: some captions are dropped in training
(guidance needs it); every sample has its own noise, without low frequencies, which would tint the defect; the model
works in a window around the box at native scale; only its change is added to the good picture, so that the
autoencoder's error does not get into the result, nor the ground that the model repaints around the defect.
"""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from lib import language
from lib.core.geometry import RGB, Box, Mask, Window, box_mask, crop, resize, scaled, window_around
from lib.core.images import read_image, recent
from lib.core.params import Params, Positive, Section
from lib.core.records import DefectBox, Placement
from lib.core.runtime import device, progress, seed_for, write_json
from lib.diffusion.adapters import LORA_FILE, UNET_HALVES, UNET_TARGETS, adapter_keys, check_adapters
from lib.diffusion.components import Components, embed, load, provenance, to_pixels, to_tensor
from lib.diffusion.inpainting import Cache, InpaintingObjective, encode_views
from lib.diffusion.pasting import apply_change, defect_changes
from lib.diffusion.sampling import SAMPLER_SETTINGS, inpaint, sampling_dtype, starting_noise
from lib.diffusion.training import train
from lib.diffusion.views import Flips, flipped, flips_of, random_window
from lib.generators import NON_FINITE, WINDOW, Answer, Failed, Made, RealData

SHARED = (*SAMPLER_SETTINGS, "synth.feather", *WINDOW)
View = tuple[DefectBox, Flips, int]  # a real defect, how its view is flipped, the seed of the view


class Settings(Section):
    """adapter: lora trains adapters of `rank` on the attention layers, full trains all weights of the U-Net; variants:
    cached views of each real defect; reference: the picture whose difference to the generated one is the defect:
    flawless, painted from the same noise without a defect, or round_trip, the encoded and decoded good picture."""

    adapter: Literal["lora", "full"]
    rank: Positive
    variants: Positive
    reference: Literal["flawless", "round_trip"]


def finetune(params: Params, settings: Settings, real: RealData, key: str, out: Path, curves: Path) -> None:
    """Fine-tune the base on the category's real defects; `out` gets adapters or a U-Net in diffusers format."""
    torch.manual_seed(params.seed)
    parts = load(params.base, device())
    cache, captions = cached_views(params, settings, real, parts)
    table = embed(parts, captions).clone()
    if settings.adapter == "lora":
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.rank, init_lora_weights="gaussian", target_modules=list(UNET_TARGETS)
        )
        parts.unet.add_adapter(config)
    else:
        parts.unet.requires_grad_(True)
    objective = InpaintingObjective(
        unet=parts.unet,
        text=lambda rows: table[rows],
        empty=0,
        cache=cache,
        scheduler=parts.scheduler,
        min_snr_gamma=params.finetune.min_snr_gamma,
        caption_dropout=params.finetune.caption_dropout,
    )
    train(
        objective, len(cache.latents), params.finetune, params.seed, f"finetune-mvp_diff-{real.category}", key, curves
    )
    if settings.adapter == "lora":
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(parts.unet))
        StableDiffusionInpaintPipeline.save_lora_weights(out, unet_lora_layers=layers)
    else:
        parts.unet.to(memory_format=torch.contiguous_format).save_pretrained(out / "unet")
    facts = {"generator": "mvp_diff", "adapter": settings.adapter, **provenance(params.base, out)}
    write_json(out / "model.json", facts)


def synthesize(
    params: Params, settings: Settings, real: RealData, model: Path, batches: Iterable[list[Placement]]
) -> Iterator[list[Answer]]:
    """Paint a defect into the box of every placement; outside the box nothing changes, bit for bit."""
    where = device()
    parts = adapted(params, model, where, sampling_dtype(where))
    read = recent(read_image)
    text = lru_cache(maxsize=None)(lambda prompt: embed(parts, [prompt])[0].clone())
    side = parts.resolution
    for batch in batches:
        normals = [read(Path(real.samples[placement.normal].image)) for placement in batch]
        windows = [
            window_around(placement.box, normal.shape, params.window.context, params.window.min_side)
            for placement, normal in zip(batch, normals, strict=True)
        ]
        views = [resize(crop(normal, window), side, side) for normal, window in zip(normals, windows, strict=True)]
        holes = [hole(placement.box, window, side) for placement, window in zip(batch, windows, strict=True)]
        flawless = text(language.normal_caption(real.category)).expand(len(batch), -1, -1)
        sampled = inpaint(
            parts,
            pixels=to_tensor(np.stack(views)).to(where),
            masks=torch.from_numpy(np.stack(holes))[:, None].float().to(where),
            text=torch.stack([text(placement.prompt) for placement in batch]),
            empty=text("")[None],
            noise=starting_noise([placement.seed for placement in batch], parts, params.synth.noise_blur).to(where),
            settings=params.synth,
            other_text=flawless if settings.reference == "flawless" else None,
        )
        other = None if sampled.other is None else to_pixels(sampled.other)
        changes = defect_changes(to_pixels(sampled.generated), to_pixels(sampled.round_trip), other)
        yield [
            Made(
                apply_change(
                    normal, window, change, box_mask(placement.box, *normal.shape[1::-1]), params.synth.feather
                )
            )
            if np.isfinite(change).all()
            else Failed(NON_FINITE)
            for normal, window, change, placement in zip(normals, windows, changes, batch, strict=True)
        ]


def hole(box: Box, window: Window, side: int) -> Mask:
    """(side, side) bool: the box as it lies in the window at the base's resolution."""
    return box_mask(scaled(window.inside(box), side / window.side), side, side)


def adapted(params: Params, model: Path, where: torch.device, dtype: torch.dtype) -> Components:
    """The base model with the fine-tuned weights merged in, ready to sample.

    Raises UserError unless the file has adapters for exactly the attention layers of this base.
    """
    facts = json.loads((model / "model.json").read_text(encoding="utf-8"))
    parts = load(params.base, where, dtype)
    if facts["adapter"] == "lora":
        check_adapters(model / LORA_FILE, adapter_keys("unet", parts.unet, UNET_TARGETS, UNET_HALVES))
        parts.unet.load_lora_adapter(model, prefix="unet", weight_name=LORA_FILE, use_safetensors=True)
        parts.unet.fuse_lora()
        parts.unet.unload_lora()
        unet = parts.unet
    else:
        unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=dtype, use_safetensors=True)
    unet.requires_grad_(False).eval().to(where, memory_format=torch.channels_last)
    return Components(unet, parts.vae, parts.text_encoder, parts.tokenizer, parts.scheduler)


def cached_views(params: Params, settings: Settings, real: RealData, parts: Components) -> tuple[Cache, list[str]]:
    """Encode several views of every real defect once, and list the captions that the cache refers to.

    Caption 0 is the empty one.
    """
    views, rows, table = list[View](), [], {"": 0}
    for item in real.boxes:
        described = real.descriptions[item.sample, item.component]
        for variant in range(settings.variants):
            flips = flips_of(variant)
            views.append((item, flips, seed_for(params.seed, item.sample, item.component, variant)))
            mirrored = language.mirrored(described.location, *flips)
            texts = language.captions(item.defect_type, real.category, mirrored) if any(flips) else described.captions
            rows.append(tuple(table.setdefault(text, len(table)) for text in texts))
    read = recent(read_image)

    def cut(batch: list[View]) -> tuple[RGB, NDArray[np.bool_], Tensor]:
        pairs = [
            view_of(read(Path(real.samples[item.sample].image)), item.box, flips, params, parts.resolution, seed)
            for item, flips, seed in batch
        ]
        pictures, masks = zip(*pairs, strict=True)
        return np.stack(pictures), np.stack(masks), torch.tensor([seed % 2**31 for *_, seed in batch])

    size = params.finetune.batch_size
    batches = [views[start : start + size] for start in range(0, len(views), size)]
    latents, masked, masks = encode_views(parts.vae, (cut(batch) for batch in progress(batches, "encode views")))
    return Cache(latents, masked, masks, tuple(rows)), list(table)


def view_of(image: RGB, box: Box, flips: Flips, params: Params, side: int, seed: int) -> tuple[RGB, Mask]:
    """One training view of a defect: a random window around it, flipped as asked, and the mask of its box.

    Returns (side, side, 3) uint8 and (side, side) bool.
    """
    rng = np.random.default_rng(seed)
    window = random_window(box, image.shape, params.window.context, params.window.min_side, rng)
    return flipped(resize(crop(image, window), side, side), flips), flipped(hole(box, window, side), flips)
