"""MvP-Diff: inpaint a box of a good picture from a caption, and measure afterwards what changed.

After the public parts of `JJessicaYao/MvP-Diff`: an inpainting model learns to restore real defect pictures whose
defect is masked by a box, from captions that name the defect and its place (its section "training"). It then paints
into boxes of good pictures (its section "inference"). Intended differences: some captions are dropped in training
(guidance needs it); a share of the training views shows good pictures under the caption of one; every sample has its
own noise, without low frequencies, which would tint the defect; the model works in a window around the box at native
scale; only its change is added to the good picture, so that the autoencoder's error does not get into the result, nor
the ground that the model repaints around the defect.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model_state_dict
from pydantic import Field
from torch import Tensor

from lib import language
from lib.core.geometry import RGB, Box, Mask, Window, box_mask, crop, resize, scaled, window_around
from lib.core.images import read_image, recent
from lib.core.params import Params, Positive, Section
from lib.core.records import GOOD, Placement
from lib.core.runtime import device, dtype_of, progress, seed_for, write_json
from lib.diffusion.adapters import LORA_FILE, UNET_HALVES, UNET_TARGETS, adapter_keys, check_adapters
from lib.diffusion.components import Components, embed, load, provenance, to_pixels, to_tensor
from lib.diffusion.inpainting import Cache, InpaintingObjective, encode_views
from lib.diffusion.pasting import apply_change, defect_changes
from lib.diffusion.sampling import SAMPLER_SETTINGS, inpaint, latent_noise
from lib.diffusion.training import train
from lib.diffusion.views import Flips, flipped, flips_of, random_window
from lib.generators import NON_FINITE, WINDOW, Answer, Failed, Made, RealData

SHARED = (*SAMPLER_SETTINGS, "synth.feather", *WINDOW)


class View(NamedTuple):
    """A window for training: id of the picture, the box to restore in it, how the window is flipped, its seed."""

    sample: str
    box: Box
    flips: Flips
    seed: int


class Settings(Section):
    """adapter: lora trains adapters of `rank` on the attention layers, full trains all weights of the U-Net; variants:
    cached views of each real defect; good_share: of all views, those that show good pictures; reference: the picture
    whose difference to the generated one is the defect: flawless, painted from the same noise without a defect, or
    round_trip, the encoded and decoded good picture."""

    adapter: Literal["lora", "full"]
    rank: Positive
    variants: Positive
    good_share: Annotated[float, Field(ge=0, lt=1)]
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
    parts = adapted(params, model, where, dtype_of(where))
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
            noise=latent_noise([placement.seed for placement in batch], parts, params.synth.noise_blur).to(where),
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
    """Encode several views of every real defect, and views of good pictures, once; and list the captions that the cache
    refers to.

    Caption 0 is the empty one.
    """
    views, rows, table = list[View](), [], {"": 0}
    for item in real.boxes:
        described = real.descriptions[item.sample, item.component]
        for variant in range(settings.variants):
            flips = flips_of(variant)
            seed = seed_for(params.seed, item.sample, item.component, variant)
            views.append(View(item.sample, item.box, flips, seed))
            mirrored = language.mirrored(described.location, *flips)
            texts = language.captions(item.defect_type, real.category, mirrored) if any(flips) else described.captions
            rows.append(tuple(table.setdefault(text, len(table)) for text in texts))
    if good := good_views(real, views, settings.good_share):
        views += good
        rows += [(table.setdefault(language.normal_caption(real.category), len(table)),)] * len(good)
    read = recent(read_image)

    def cut(batch: list[View]) -> tuple[RGB, NDArray[np.bool_], Tensor]:
        pairs = [
            view_of(read(Path(real.samples[sample].image)), box, flips, params, parts.resolution, seed)
            for sample, box, flips, seed in batch
        ]
        pictures, masks = zip(*pairs, strict=True)
        return np.stack(pictures), np.stack(masks), torch.tensor([view.seed % 2**31 for view in batch])

    size = params.finetune.batch_size
    batches = [views[start : start + size] for start in range(0, len(views), size)]
    latents, masked, masks = encode_views(parts.vae, (cut(batch) for batch in progress(batches, "encode views")))
    return Cache(latents, masked, masks, tuple(rows)), list(table)


def good_views(real: RealData, views: Sequence[View], share: float) -> list[View]:
    """As many views of good pictures as make up this share, in [0, 1), of all views: in the boxes of real defects.

    Fine-tuned on defects alone, a model would paint them whatever the caption says, also where a good part is asked
    for. So the caption of a good part keeps its meaning (prior preservation: Ruiz et al. 2023).
    """
    good = sorted(sample.id for sample in real.samples.values() if sample.defect_type == GOOD)
    count = round(len(views) * share / (1 - share)) if good else 0
    chosen = []
    for number in range(count):
        like = views[number * len(views) // count]
        seed = seed_for(like.seed, "good", number)
        sample = real.samples[good[seed % len(good)]]
        chosen.append(View(sample.id, fitting(like.box, *sample.size), like.flips, seed))
    return chosen


def fitting(box: Box, width: int, height: int) -> Box:
    """The box, moved into a picture of this size, and cut where it is larger than that."""
    x0, y0 = max(min(box[0], width - (box[2] - box[0])), 0), max(min(box[1], height - (box[3] - box[1])), 0)
    return x0, y0, min(x0 + box[2] - box[0], width), min(y0 + box[3] - box[1], height)


def view_of(image: RGB, box: Box, flips: Flips, params: Params, side: int, seed: int) -> tuple[RGB, Mask]:
    """One training view of a defect: a random window around it, flipped as asked, and the mask of its box.

    Returns (side, side, 3) uint8 and (side, side) bool.
    """
    rng = np.random.default_rng(seed)
    window = random_window(box, image.shape, params.window.context, params.window.min_side, rng)
    return flipped(resize(crop(image, window), side, side), flips), flipped(hole(box, window, side), flips)
