"""Stable Diffusion 1.5's size on this machine: seconds and memory of fine-tuning and of synthesis.

    python bench/full_size.py [--folder FOLDER] [--train-steps 2] [--pictures 2] [--sample-steps 2]

Builds the architecture of the inpainting model (U-Net 860 M, autoencoder 84 M, text encoder 123 M parameters) with
random weights in diffusers' folder format, and then loads, fine-tunes and samples it with the pipeline's own code.
Random weights paint noise: what is shown is that all of it fits together at full size, and what it costs.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib.base.text import make_tokenizer
from lib.dataset.workpieces import workpiece
from lib.diffusion.components import Components, save
from lib.generators import Made, RealData
from lib.generators.mvp_diff import Settings, finetune, synthesize
from lib.core.images import write_png
from lib.language import captions, prompt
from lib.core.params import Params, load
from lib.core.records import GOOD, DefectBox, Description, Placement, Sample
from lib.core.runtime import device

BOX = (96, 96, 160, 150)
CATEGORY, DEFECT, PLACE = "brushed_metal", "scratch", "in the center"


def full_size_parts() -> Components:
    """The five parts with the settings of the published configuration files; what is not named is diffusers' default,
    which was taken from this model."""
    tokenizer = make_tokenizer(list(captions(DEFECT, CATEGORY, PLACE)))
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
    )
    return Components(
        unet=UNet2DConditionModel(sample_size=64, in_channels=9, cross_attention_dim=768),
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    )


def scene(folder: Path) -> RealData:
    """One real defect and one good picture, on disk."""
    pair, samples = workpiece(CATEGORY, DEFECT, 0, 0), {}
    for name, image in ((GOOD, pair.normal), (DEFECT, pair.defect)):
        write_png(folder / f"{name}.png", image)
        mask = None if name == GOOD else "unread"
        samples[name] = Sample(name, CATEGORY, name, str(folder / f"{name}.png"), mask, name, "train", (256, 256), "")
    described = Description(DEFECT, 0, PLACE, captions(DEFECT, CATEGORY, PLACE))
    return RealData(CATEGORY, samples, (DefectBox(DEFECT, 0, DEFECT, BOX, 300),), {(DEFECT, 0): described})


def chosen(base: Path, args: argparse.Namespace) -> Params:
    params = load()
    steps = {"steps": args.train_steps, "checkpoint_every": args.train_steps, "batch_size": args.batch}
    painted = {"steps": args.sample_steps, "batch_size": args.batch}
    return params.model_copy(
        update={
            "base": params.base.model_copy(update={"model": str(base)}),
            "finetune": params.finetune.model_copy(update=steps),
            "synth": params.synth.model_copy(update=painted),
        }
    )


@contextmanager
def clock(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    where = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU" if torch.cuda.is_available() else ""
    print(f"{what}: {time.perf_counter() - start:.1f} s, at most {memory:.1f} GiB so far{where}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the model (2 GB) is put and stays; default: thrown away")
    parser.add_argument("--train-steps", type=int, default=2)
    parser.add_argument("--sample-steps", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = (args.folder or folder / "base").absolute()
        if not (base / "model_index.json").exists():
            with clock("build and save with random weights"):
                torch.manual_seed(0)
                parts = full_size_parts()
                for module in (parts.unet, parts.vae, parts.text_encoder):
                    print(f"{type(module).__name__}: {sum(p.numel() for p in module.parameters()) / 1e6:.0f} M")
                    module.half()
                save(parts, base)
                del parts
        params, real = chosen(base, args), scene(folder)
        settings = params.section("mvp_diff", Settings).model_copy(update={"variants": 2})
        # In the folder: beside the pipeline's own unfinished work this would be taken for a newer version of it.
        with chdir(folder), clock(f"load, encode, fine-tune {args.train_steps} steps of {args.batch} on {device()}"):
            finetune(params, settings, real, "full-size", folder / "model", folder / "curves")
        text = prompt(DEFECT, CATEGORY, PLACE)
        placements = [
            Placement(f"p{number}", CATEGORY, DEFECT, GOOD, BOX, PLACE, text, number, DEFECT, 0)
            for number in range(args.pictures)
        ]
        batches = [placements[start : start + args.batch] for start in range(0, args.pictures, args.batch)]
        with clock(f"load and paint {args.pictures} pictures of {args.sample_steps} steps"):
            stream = synthesize(params, settings, real, folder / "model", batches)
            made = [one for batch in stream for one in batch]
        assert len(made) == args.pictures and all(
            isinstance(one, Made) and one.image.shape == (256, 256, 3) for one in made
        )


if __name__ == "__main__":
    main()
