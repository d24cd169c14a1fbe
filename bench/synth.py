"""Pictures per second: `synth` as the pipeline runs it, beside a plain loop over diffusers' inpainting pipeline.

    python bench/synth.py [--base models/base] [--pictures 24] [--rounds 3]

Both paint into the same boxes of the same pictures with the same base, scheduler, steps and guidance, and write PNG.
The plain loop is what one would write without Blemish: one window and one call of `StableDiffusionInpaintPipeline` for
each picture, guided in every step. Blemish runs as configured, which paints each picture once more flawless
(`mvp_diff.reference`), then without that, and without that and guided in every step, as the loop is. All take turns, so
that a busy machine slows each; quoted is the median of the rounds' ratios.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from lib.dataset.workpieces import workpiece
from lib.diffusion.sampling import SCHEDULERS
from lib.generators import Made, RealData
from lib.generators.mvp_diff import Settings, hole, synthesize
from lib.core.geometry import window_around
from lib.core.images import write_png
from lib.language import prompt
from lib.core.params import Params, load
from lib.core.records import GOOD, Placement, Sample
from lib.core.runtime import device, write_json


def scene(folder: Path, count: int) -> tuple[RealData, list[Placement]]:
    """Good pictures on disk and a box of middling size on each."""
    samples, placements = {}, []
    for index in range(count):
        pair = workpiece("brushed_metal", "train/good", 0, index % 8)
        path = folder / f"{index % 8}.png"
        write_png(path, pair.normal)
        samples[path.stem] = Sample(
            path.stem, "brushed_metal", GOOD, str(path), None, path.stem, "train", (256, 256), ""
        )
        box = (60 + index % 40, 80, 110 + index % 40, 120)
        text = prompt("scratch", "brushed_metal", "in the center")
        placements.append(
            Placement(
                f"p{index:04d}", "brushed_metal", "scratch", path.stem, box, "in the center", text, index, path.stem, 0
            )
        )
    return RealData("brushed_metal", samples, (), {}), placements


def ours(
    params: Params, settings: Settings, real: RealData, model: Path, placements: list[Placement], out: Path
) -> float:
    size = params.synth.batch_size
    batches = [placements[start : start + size] for start in range(0, len(placements), size)]
    stream = synthesize(params, settings, real, model, [placements[:1], *batches])
    next(stream)  # loads the model: in both arms that happens before the clock starts
    start = time.perf_counter()
    for batch, answers in zip(batches, stream, strict=True):
        for placement, answer in zip(batch, answers, strict=True):
            assert isinstance(answer, Made), answer
            write_png(out / f"{placement.id}.png", answer.image)
    return time.perf_counter() - start


def plain(params: Params, real: RealData, pipeline, placements: list[Placement], out: Path) -> float:
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    start = time.perf_counter()
    for placement in placements:
        picture = Image.open(real.samples[placement.normal].image).convert("RGB")
        window = window_around(placement.box, picture.size[::-1], params.window.context, params.window.min_side)
        place = (window.x0, window.y0, window.x0 + window.side, window.y0 + window.side)
        image = pipeline(
            prompt=placement.prompt,
            image=picture.crop(place).resize((side, side)),
            mask_image=Image.fromarray(hole(placement.box, window, side)),
            height=side,
            width=side,
            num_inference_steps=params.synth.steps,
            guidance_scale=params.synth.guidance_scale,
            strength=params.synth.strength,
            generator=torch.Generator().manual_seed(placement.seed),
        ).images[0]
        picture.paste(image.resize((window.side, window.side)), place)
        picture.save(out / f"{placement.id}.png")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="models/base")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    params = load()
    params = params.model_copy(update={"base": params.base.model_copy(update={"model": args.base})})
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(
        args.base, local_files_only=True, safety_checker=None, dtype=torch.float32
    ).to(device())
    pipeline.scheduler = SCHEDULERS[params.synth.scheduler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real, placements = scene(folder, args.pictures)
        write_json(folder / "model" / "model.json", {"adapter": "base"})
        (folder / "model" / "unet").symlink_to(Path(args.base, "unet").resolve())
        fewer = placements[: max(args.pictures // 3, 1)]
        always = params.model_copy(update={"synth": params.synth.model_copy(update={"guidance_share": 1.0})})
        settings = params.section("mvp_diff", Settings)
        once = settings.model_copy(update={"reference": "round_trip"})
        ways = {
            "as configured": (params, settings),
            "painted once": (params, once),
            "painted once, guided in every step": (always, once),
        }
        ratios: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(args.rounds + 1):
            rates = {
                way: len(placements) / ours(*chosen, real, folder / "model", placements, folder)
                for way, chosen in ways.items()
            }
            loop = len(fewer) / plain(params, real, pipeline, fewer, folder)
            if turn:  # the first one warms up
                print(f"round {turn}: plain loop {loop:.2f} pictures/s")
                for way, rate in rates.items():
                    ratios[way].append(rate / loop)
                    print(f"  {way}: {rate:.2f} pictures/s, {rate / loop:.2f} times as many")
    for way, of_rounds in ratios.items():
        print(f"median ratio {way}: {statistics.median(of_rounds):.2f}")


if __name__ == "__main__":
    main()
