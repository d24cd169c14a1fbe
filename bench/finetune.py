"""Training samples per second: the pipeline's loop beside one that encodes pictures and text in every step.

    python bench/finetune.py [--base models/base] [--steps 20] [--rounds 3]

Both train the same adapters on the same views with the same batch size and optimizer. The plain loop is that of the
public training scripts: in each step it opens the pictures, resizes them, encodes picture and masked picture, tokenizes
and embeds the captions, with the model laid out as diffusers loads it, all cores at one batch, and AdamW as torch makes
it unasked. The pipeline's step is its own (`lib/diffusion/training.py`). The two take turns; quoted is the median of
the rounds' ratios.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import numpy as np
import torch
from peft import LoraConfig

from lib.dataset.workpieces import workpiece
from lib.diffusion.adapters import UNET_TARGETS
from lib.diffusion.components import Components, embed, encode, load as load_base, to_tensor
from lib.diffusion.training import backward_in_shares
from lib.diffusion.inpainting import Cache, InpaintingObjective, blanked, encode_views, latent_masks
from lib.generators.mvp_diff import Settings, view_of
from lib.core.images import read_image, write_png
from lib.language import captions
from lib.core.params import Params, load
from lib.core.runtime import cores, device, side_by_side

COUNT = 16  # pictures
BOX = (96, 96, 160, 150)


def with_adapters(params: Params, base: str, fused: bool) -> tuple[Components, torch.optim.Optimizer]:
    parts = load_base(params.base.model_copy(update={"model": base}), device())
    rank = params.section("mvp_diff", Settings).rank
    parts.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(UNET_TARGETS)))
    adapters = [value for value in parts.unet.parameters() if value.requires_grad]
    return parts, torch.optim.AdamW(adapters, lr=1e-5, fused=fused)


def draws_of(number: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number * 1000 + place) for place in range(count)]


def update(optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def encoded(parts: Components, params: Params, files: list[Path], indices: list[int]) -> Cache:
    """Open, crop and encode these pictures: what the plain loop does in every step."""
    views = [view_of(read_image(files[i]), BOX, (False, False), params, parts.resolution, i) for i in indices]
    with torch.no_grad():
        pixels = to_tensor(np.stack([view for view, _ in views])).to(device())
        holes = torch.from_numpy(np.stack([mask for _, mask in views]))[:, None].float().to(device())
        latents, masked = encode(parts.vae, pixels), encode(parts.vae, blanked(pixels, holes))
    return Cache(latents, masked, latent_masks(holes, latents), tuple((place,) for place in range(len(indices))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="models/base")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    params = load()
    parts, optimizer = with_adapters(params, args.base, fused=True)
    theirs, their_optimizer = with_adapters(params, args.base, fused=False)
    for module in (theirs.unet, theirs.vae):
        module.to(memory_format=torch.contiguous_format)
    texts = list(captions("scratch", "brushed_metal", "in the center"))
    size = params.finetune.batch_size
    gamma, dropout = params.finetune.min_snr_gamma, params.finetune.caption_dropout
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name, f"{index}.png") for index in range(COUNT)]
        for index, file in enumerate(files):
            write_png(file, workpiece("brushed_metal", "scratch", 0, index).defect)
        table = embed(parts, texts).clone()
        views = [view_of(read_image(file), BOX, (False, False), params, parts.resolution, 0) for file in files]
        batch = (np.stack([v for v, _ in views]), np.stack([m for _, m in views]), torch.arange(COUNT))
        rows = tuple((index % len(texts),) for index in range(COUNT))
        cached = InpaintingObjective(
            parts.unet,
            lambda chosen: table[chosen],
            0,
            Cache(*encode_views(parts.vae, [batch]), rows),
            parts.scheduler,
            gamma,
            dropout,
        )
        shares, weights = min(cores(device()), size), optimizer.param_groups[0]["params"]
        rng, ratios = np.random.default_rng(0), []
        for turn in range(args.rounds + 1):
            start = time.perf_counter()
            with side_by_side(device(), shares) as run:
                for number in range(args.steps):
                    chosen = torch.from_numpy(rng.integers(COUNT, size=size))
                    backward_in_shares(cached, weights, chosen, draws_of(number, size), shares, run)
                    update(optimizer)
            middle = time.perf_counter()
            for number in range(args.steps):
                drawn = rng.integers(COUNT, size=size).tolist()
                spoken = [texts[index % len(texts)] for index in drawn]
                cache = encoded(theirs, params, files, drawn)
                plain = InpaintingObjective(
                    theirs.unet, lambda rows, spoken=spoken: embed(theirs, [spoken[row] for row in rows]), 0, cache,
                    theirs.scheduler, gamma, dropout,
                )  # fmt: skip
                plain(torch.arange(size), draws_of(number, size)).mean().backward()
                update(their_optimizer)
            end = time.perf_counter()
            if turn:  # the first one warms up
                rates = args.steps * size / (middle - start), args.steps * size / (end - middle)
                ratios.append(rates[0] / rates[1])
                print(f"round {turn}: cached {rates[0]:.1f}, plain {rates[1]:.1f} samples/s, ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
