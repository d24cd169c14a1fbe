"""Speed of `defectfill` and `defect_gen`: as the pipeline runs them, beside the procedures as they are published.

    python bench/generators.py [--rounds 3] [--pictures 24] [--steps 10] [--what sample windows train]

On rendered workpieces, with base, sizes, sampler and batches of params.yaml; words and pixel networks are untrained.
All ways take turns, so that a busy machine slows each; quoted are median and range of the rounds' ratios.
`CPU s` is the time of all cores.

- `sample`, `defectfill`. Published: for each placement and candidate one call of diffusers' inpainting pipeline on the
  window, guided in every step, pasted into the hole, and one perceptual score, by the backbone that ours uses. Ours:
  `synthesize`, as configured (`synth.guidance_share`), and guided in every step. Both write PNG. From the same noise
  both must paint the same window.
- `windows`, `defect_gen`. Published: one window after the other, all cores on it; or 4 in a batch, as in the published
  code; memory layout as diffusers loads it. Ours: `Sampler` on batches of synth.batch_size, six windows on a core.
- `train`, `defectfill` with all three losses. Published: each step opens pictures and masks, crops, encodes (whole,
  without the defect, without random boxes) and tokenizes; then text encoder and U-Net run for the defect prompt, and
  again for the object prompt, whose attention counts; memory layout as diffusers loads it, all cores at one batch,
  AdamW as torch makes it. Ours: the steps of `train` with its moving average. Two passes: ours, but with one run of
  text encoder and U-Net per prompt: what one pass alone gives. Losses and gradients must be the same.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, count, cycle
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import numpy as np
import torch
from accelerate import Accelerator
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn

from lib.boxes import mask_boxes
from lib.core.defects import defect_mask
from lib.core.geometry import RGB, Mask, crop, resize
from lib.core.images import read_image, write_png
from lib.core.params import Params, load
from lib.core.records import GOOD, Placement, Sample
from lib.core.runtime import device, seed_for
from lib.dataset.workpieces import workpiece
from lib.diffusion import attention, components, inpainting, pixel, sampling, selection, training, words
from lib.diffusion.views import flips_of
from lib.diffusion.word_objective import Prompts, Views, WordObjective
from lib.generators import Made, RealData, defect_gen, defectfill
from lib.vision import backbones, shapes

Way = tuple[Callable[[], Any], int]  # a call to time, and how many pictures or steps it makes
CATEGORY, TYPES, PICTURES = "brushed_metal", ["scratch", "stain"], 8  # rendered of each type


class Bench(NamedTuple):
    """What all parts share."""

    params: Params
    real: RealData
    placements: list[Placement]
    folder: Path
    rounds: int
    steps: int  # of training, in a round

    @property
    def own(self) -> defectfill.Settings:
        return self.params.section("defectfill", defectfill.Settings)

    def by_turns(self, title: str, unit: str, ways: dict[str, Way]) -> None:
        """Time all ways in every round, after one that warms up; print a table, and ratios of others to ours."""
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(self.rounds + 1):
            for name, (call, units) in list(ways.items())[:: -1 if number % 2 else 1]:
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                times = (time.perf_counter() - wall) / units, (time.process_time() - cpu) / units
                taken[name] += [times] if number else []
        print(f"\n| {title} | {unit}s a minute | CPU s |\n|---|---|---|")
        for name, rows in taken.items():
            wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"| {name} | {60 / wall:.1f} | {cpu:.3f} |")
        print()
        for ours, other in [(ours, other) for ours in ways for other in ways if "ours" in ours and "ours" not in other]:
            for place, what in enumerate((f"{unit}s", "CPU s")):
                ratios = [a[place] / b[place] for a, b in zip(taken[other], taken[ours], strict=True)]
                print(f"{what}, {ours}: {statistics.median(ratios):.2f} times {other}", end="")
                print(f" ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def scene(params: Params, folder: Path, pictures: int) -> tuple[RealData, list[Placement]]:
    """Real defects and good pictures on disk, and placements on the good ones where the real defects are."""
    samples, boxes, placements = {}, [], []
    for kind in (GOOD, *TYPES):
        for index in range(PICTURES):
            pair, name = workpiece(CATEGORY, "train/good" if kind == GOOD else kind, 0, index), f"{kind}-{index}"
            image, mask = f"{folder}/{name}.png", f"{folder}/{name}-mask.png"
            write_png(Path(image), pair.defect)
            write_png(Path(mask), pair.mask)
            samples[name] = Sample(name, CATEGORY, kind, image, mask, name, "train", (256, 256), "")
            found = mask_boxes(pair.mask, params.boxes.margin, params.boxes.min_area)
            boxes += [item.record(name, number, kind) for number, item in enumerate(found)]
    for number, like in zip(range(pictures), cycle(boxes), strict=False):
        names, good = (f"p{number:04d}", CATEGORY, like.defect_type), f"{GOOD}-{number % PICTURES}"
        placements.append(Placement(*names, good, like.box, "", "", number, like.sample, like.component))
    return RealData(CATEGORY, samples, tuple(boxes), {}), placements


def with_adapters(bench: Bench) -> tuple[components.Components, dict[str, int]]:
    """The base with the words of TYPES and fresh adapters, and the words' ids: every time the same."""
    torch.manual_seed(0)
    parts = components.load(bench.params.base, device())
    ids = words.add_words(parts, {defectfill.word_of(name): name for name in TYPES})
    words.add_adapters(parts, bench.own.rank, bench.own.alpha, ids.values())
    attention.show_decoder_attention(parts.unet)
    return parts, ids


def painted(bench: Bench, pipeline: Any, prompt: str, view: RGB, hole: Mask, **start: Any) -> Any:
    """One call of diffusers' pipeline: (S, S, 3) float in [0, 255]. start: a generator, or latents."""
    synth, side = bench.params.synth, len(view)
    return 255 * pipeline(
        prompt=prompt, image=Image.fromarray(view), mask_image=Image.fromarray(hole), height=side, width=side,
        num_inference_steps=synth.steps, guidance_scale=synth.guidance_scale, strength=synth.strength,
        output_type="np", **start,
    ).images[0]  # fmt: skip


def published_samples(bench: Bench, pipeline: Any, backbone: nn.Module, placements: list[Placement]) -> None:
    """Candidates one at a time; the one that differs most from the good picture is written."""
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    for placement in placements:
        _, normal, hole, (part, *_) = defectfill.Holes(bench.params, bench.own, bench.real, side).job(placement)
        view, shape = crop(normal, part.window), crop(hole, part.window)
        prompt = defectfill.prompt_of(bench.own, placement.defect_type, CATEGORY)
        scores, pictures = [], []
        for candidate in range(bench.own.candidates):
            draw = torch.Generator().manual_seed(seed_for(placement.seed, candidate))
            small = resize(view, side, side), shapes.covering(shape, side)
            image = painted(bench, pipeline, prompt, *small, generator=draw).round().astype(np.uint8)
            pictures.append(np.where(shape[..., None], resize(image, len(view), len(view)), view))
            scores.append(selection.difference(backbone, pictures[-1], view, shape, side))
        x, y = part.window.x0, part.window.y0
        normal[y : y + len(view), x : x + len(view)] = pictures[int(np.argmax(scores))]
        write_png(bench.folder / f"{placement.id}.png", normal)


def apart(bench: Bench, parts: components.Components, pipeline: Any) -> float:
    """By how much of 255 ours and diffusers' pipeline differ in a window, from the same noise, without our extras."""
    side, placement = parts.resolution, bench.placements[0]
    _, normal, hole, (part, *_) = defectfill.Holes(bench.params, bench.own, bench.real, side).job(placement)
    cells = shapes.covering(crop(hole, part.window), side // parts.factor)
    mask = cells.repeat(parts.factor, axis=0).repeat(parts.factor, axis=1)
    view, prompt = resize(crop(normal, part.window), side, side), defectfill.prompt_of(bench.own, TYPES[0], CATEGORY)
    pixels, noise = components.to_tensor(view[None]), sampling.latent_noise([0], parts, bench.params.synth.noise_blur)
    with torch.inference_mode():
        text, empty = components.embed(parts, [prompt]), components.embed(parts, [""])
        pipeline.scheduler.set_timesteps(bench.params.synth.steps)
        clean, first = components.encode(parts.vae, pixels), pipeline.scheduler.timesteps[:1]
        start = pipeline.scheduler.add_noise(clean, noise, first)  # the pipeline itself begins with noise alone
    always = bench.params.synth.model_copy(update={"guidance_share": 1.0})
    ours = sampling.inpaint(parts, pixels, torch.from_numpy(mask)[None, None].float(), text, empty, noise, always)
    theirs = painted(bench, pipeline, prompt, view, mask, latents=start)
    return float(np.abs(components.to_pixels(ours.generated)[0] - theirs).max())


def sample(bench: Bench) -> None:
    params, placements, model = bench.params, bench.placements, bench.folder / "words"
    model.mkdir()
    words.save_words(*with_adapters(bench), bench.own.rank, bench.own.alpha, model)
    parts, theirs = (words.load_words(components.load(params.base, device()), model) for _ in range(2))
    for module in (theirs.unet, theirs.vae):  # as diffusers loads them
        module.to(memory_format=torch.contiguous_format)
    backbone = backbones.load_backbone(backbones.DEFAULT).requires_grad_(False)
    pipeline = components.as_pipeline(theirs)
    pipeline.scheduler = sampling.SCHEDULERS[params.synth.scheduler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    print(f"\ndefectfill: from the same noise, a window differs by at most {apart(bench, parts, pipeline):.4f} of 255")
    size = params.synth.batch_size
    batches = [placements[start : start + size] for start in range(0, len(placements), size)]

    def ours(share: float) -> Way:
        changed = params.model_copy(update={"synth": params.synth.model_copy(update={"guidance_share": share})})
        stream = defectfill.synthesize(changed, bench.own, bench.real, model, chain([placements[:1]], cycle(batches)))
        next(stream)  # loads the model: in both ways that happens before the clock starts

        def call() -> None:
            for placement, answer in zip(placements, chain.from_iterable(next(stream) for _ in batches), strict=True):
                assert isinstance(answer, Made)
                write_png(bench.folder / f"{placement.id}.png", answer.image)

        return call, len(placements)

    fewer = placements[::4]
    ways: dict[str, Way] = {"published": (partial(published_samples, bench, pipeline, backbone, fewer), len(fewer))}
    ways |= {"ours, guided in every step": ours(1.0), "ours": ours(params.synth.guidance_share)}
    title = f"defectfill, {bench.own.candidates} candidates, {params.synth.scheduler}, {params.synth.steps} steps"
    bench.by_turns(title, "picture", ways)


def windows(bench: Bench) -> None:
    params, settings = bench.params, bench.params.section("defect_gen", defect_gen.Settings)
    torch.manual_seed(0)
    networks = defect_gen.networks(settings, defect_gen.COLOURS + 1 + len(TYPES))
    for network in networks.values():
        nn.init.normal_(network.conv_out.weight, std=0.02)  # else an untrained network returns 0
        network.requires_grad_(False).eval()
    schedule = pixel.cosine_schedule(defect_gen.LEVELS).respaced(params.synth.steps)
    published = defect_gen.Sampler(networks["wide"], networks["narrow"], schedule, settings.switch)
    for name, network in networks.items():
        pixel.save(network, bench.folder / name)
    wide, narrow = (pixel.load(bench.folder / name, device()) for name in ("wide", "narrow"))
    ours = defect_gen.Sampler(wide, narrow, schedule, settings.switch)
    views = defect_gen.training_views(params, settings, bench.real, TYPES, params.seed)
    seeds, found = [item.seed for item in bench.placements], {}
    labels = [(TYPES.index(item.defect_type) + 1, defect_gen.real_label(item, views, 0)) for item in bench.placements]
    known = [defect_gen.known_channels(len(TYPES), kind, label, settings) for kind, label in labels]

    def drawn(name: str, size: int, draw: Callable[[list[int], Tensor], Any]) -> None:
        places = [slice(start, start + size) for start in range(0, len(seeds), size)]
        found[name] = np.concatenate([draw(seeds[place], torch.stack(known[place])) for place in places])

    def plain(seeds: list[int], known: Tensor) -> Tensor:
        return published._draw(pixel.starting_noise(seeds, known.shape[1:]), known)

    ways: dict[str, Way] = {f"{n} at a time": (partial(drawn, str(n), n, plain), len(seeds)) for n in (1, 4)}
    ways |= {"ours": (partial(drawn, "ours", params.synth.batch_size, ours), len(seeds))}
    bench.by_turns(f"defect_gen, {settings.side} px, {len(schedule)} levels", "window", ways)
    most = max(float(np.abs(signals - found["ours"]).max()) for signals in found.values())
    print(f"signals differ by at most {most:.2g}, where the range is 2")


class InTurn(nn.Module):
    """A network that sees one half of a batch at a time: one run for each prompt, with attention for the second."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> UNet2DConditionOutput:
        outputs, shown = [], []
        for half in zip(*(value.chunk(2) for value in inputs), strict=True):
            with attention.attention_maps() as maps:
                outputs.append(self.network(*half)[0])
            shown.append(maps)
        if (collected := attention._maps.get()) is not None:
            collected += [torch.cat([first.detach(), second]) for first, second in zip(*shown, strict=True)]
        return UNet2DConditionOutput(torch.cat(outputs))


def opened(bench: Bench, parts: components.Components, numbers: list[int]) -> Views:
    """Open, crop and encode these of the views that `defectfill.encoded_views` encodes once."""
    views, types = [], []
    for number in numbers:
        item, variant = bench.real.boxes[number // bench.own.variants], number % bench.own.variants
        pair, seed = bench.real.samples[item.sample], seed_for(bench.params.seed, item.sample, item.component, variant)
        picture, mask = read_image(Path(pair.image)), defect_mask(pair, item.defect_type)
        cut = shapes.grown(mask, bench.own.growth), item.box, flips_of(variant), bench.params.window
        views.append(defectfill.view_of(picture, *cut, max(picture.shape), parts.resolution, seed))
        types.append(TYPES.index(item.defect_type))
    pictures, masks = (np.stack(column) for column in zip(*views, strict=True))
    encoded = inpainting.encode_views(parts.vae, [(pictures, masks, torch.zeros(len(views), dtype=torch.int64))])
    return Views(pictures, *encoded, torch.tensor(types))


def objective_of(bench: Bench, parts: Any, ids: dict[str, int], views: Views, twice: bool) -> WordObjective:
    texts = map(defectfill.defect_prompt, TYPES), [defectfill.object_prompt(name, CATEGORY) for name in TYPES], [""]
    defect, whole, empty = (components.tokenize(parts, list(some)) for some in texts)
    prompts = Prompts(defect, whole, empty[0], torch.tensor(list(ids.values())))
    if twice:
        parts = replace(parts, unet=InTurn(parts.unet), text_encoder=InTurn(parts.text_encoder))
    return WordObjective(parts, prompts, views, bench.own, bench.params.finetune)


def stepping(bench: Bench, objective: WordObjective, batches: training.Batches) -> Way:
    """Training as `lib/diffusion/training.py` does it, but for curves and checkpoints."""
    shared, accelerator, firsts = bench.params.finetune, Accelerator(cpu=True), count(0, bench.steps)
    weights = {name: weight for name, weight in objective.named_parameters() if weight.requires_grad}
    model, optimizer = accelerator.prepare(objective, training.new_optimizer(weights, shared, lambda name: 1.0))
    average = EMAModel(weights.values(), decay=shared.ema_decay)

    def call() -> None:
        budget = shared.model_copy(update={"steps": (first := next(firsts)) + bench.steps})
        for _ in training.training_steps(accelerator, model, optimizer, batches, budget, first):
            average.step(weights.values())

    return call, bench.steps


def train(bench: Bench) -> None:
    shared, numbers = bench.params.finetune, count()
    batches = training.Batches(len(bench.real.boxes) * bench.own.variants, shared.batch_size, bench.params.seed)
    theirs, ids = with_adapters(bench)
    for module in (theirs.unet, theirs.vae):
        module.to(memory_format=torch.contiguous_format)
    weights = [one for one in nn.ModuleList([theirs.unet, theirs.text_encoder]).parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=shared.learning_rate)

    def losses(indices: Tensor, draws: list[torch.Generator]) -> Tensor:
        views = opened(bench, theirs, indices.tolist())
        return objective_of(bench, theirs, ids, views, twice=True)(torch.arange(len(indices)), draws)

    def plain() -> None:
        for _ in range(bench.steps):
            losses(*batches.at(next(numbers))).mean().backward()
            nn.utils.clip_grad_norm_(weights, shared.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    ways: dict[str, Way] = {"published": (plain, bench.steps)}
    found: dict[str, Any] = {"published": (losses, weights)}
    for name, twice in (("two passes", True), ("ours", False)):
        parts, _ = with_adapters(bench)
        views = defectfill.encoded_views(bench.params, bench.own, bench.real, parts, TYPES)
        objective = objective_of(bench, parts, ids, views, twice)
        ways[name] = stepping(bench, objective, batches)
        found[name] = objective, [weight for weight in objective.parameters() if weight.requires_grad]
    made, off = {}, 0.0
    for name, (compute, adapters) in reversed(found.items()):
        loss = compute(*batches.at(0))
        gradients = torch.autograd.grad(loss.mean(), adapters, allow_unused=True)
        made[name] = loss.detach(), torch.cat([one.flatten() for one in gradients if one is not None])
        off = max(off, *(float((a - b).norm() / b.norm()) for a, b in zip(made[name], made["ours"], strict=True)))
    print(f"\ndefectfill: losses and gradients of the first batch differ from ours by at most {off:.1g} of their norm")
    bench.by_turns(f"defectfill's training, batches of {shared.batch_size}", "step", ways)


def main() -> None:
    parts = {"sample": sample, "windows": windows, "train": train}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--steps", type=int, default=10, help="of training, in a round")
    parser.add_argument("--what", nargs="+", choices=parts, default=list(parts))
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "1"
    params = load()
    with tempfile.TemporaryDirectory() as name:
        real, placements = scene(params, Path(name), args.pictures)
        print(f"{torch.get_num_threads()} cores, medians of {args.rounds} rounds")
        for part in args.what:
            parts[part](Bench(params, real, placements, Path(name), args.rounds, args.steps))


if __name__ == "__main__":
    main()
