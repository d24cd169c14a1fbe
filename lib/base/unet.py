"""The U-Net of the base and, in its first phases, the text encoder: trained to restore holes in rendered pictures."""

import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from lib.base.pool import rendered_pool
from lib.base.settings import CODE, CURVES, RENDERER, BaseParams, Inpainting, OwnPairs
from lib.base.text import WIDTH, TrainableText, make_tokenizer, new_text_encoder
from lib.base.views import captions_of, in_batches, views_of
from lib.core.runtime import device, fingerprint, replace_folder, seed_for, source, work_folder, write_bytes
from lib.dataset.surfaces import Pair
from lib.diffusion.components import COMPONENTS, Components, save, to_tensor
from lib.diffusion.inpainting import Cache, InpaintingObjective, encode_views
from lib.diffusion.training import train

VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"  # of the base; its config changes with the scale of latents
CAPTIONS = 8  # phrasings kept for each sample
MANTISSA = 6  # bits kept of the U-Net's weights: its predictions change by 0.2 %, and Git packs it a fifth smaller
SCALE_PICTURES = 64  # of the pool, on which the spread of latents is measured


def make_unet(params: BaseParams, pool: list[Pair], base: Path) -> None:
    """Train U-Net and text encoder phase by phase on the autoencoder in `base`, and save the whole model there."""
    torch.manual_seed(params.seed)
    parts = new_parts(params, pool, base)
    scale_latents(parts.vae, pool, params.unet.latent_std)
    key = fingerprint(params.pool.model_dump(), params.seed, RENDERER, base / VAE_WEIGHTS, *source(*CODE))
    phases: dict[str, Inpainting] = {
        "unet": params.unet,
        "lines": params.lines,
        "strokes": params.strokes,
        "windows": params.windows,
    }
    for name, settings in phases.items():
        if isinstance(settings, OwnPairs):
            pool = rendered_pool(settings.pairs, seed_for(params.seed, name))
            parts.text_encoder.requires_grad_(False)
        key = fingerprint(key, settings.model_dump())
        train_phase(name, settings, parts, pool, params, key)
    save_half(parts, base)


def new_parts(params: BaseParams, pool: list[Pair], base: Path) -> Components:
    """The trained autoencoder of `base`, frozen, and everything else with random weights."""
    vae = AutoencoderTiny.from_pretrained(base / "vae", dtype=torch.float32)
    vae.requires_grad_(False).eval().to(device(), memory_format=torch.channels_last)
    captions = [captions_of(pair, index, params.seed) for index, pair in enumerate(pool)]
    tokenizer = make_tokenizer(sorted({text for kinds in captions for texts in kinds for text in texts}))
    text_encoder = new_text_encoder(tokenizer).to(device())
    unet = new_unet(params.unet.channels, params.windows.crop // 4)
    unet.to(device(), memory_format=torch.channels_last)
    return Components(unet, vae, text_encoder, tokenizer, noise_schedule())


def new_unet(channels: tuple[int, ...], side: int) -> UNet2DConditionModel:
    """Random weights, three levels: nine channels in (noisy latent, mask, masked picture) of side x side cells."""
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=9,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule, for a network that predicts velocity (Salimans & Ho 2022).

    Sampling begins at the last timestep: a small network's errors in predicted noise would be amplified fifteenfold
    there and shift the colour of the whole box.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


@torch.inference_mode()
def scale_latents(vae: AutoencoderTiny, pool: list[Pair], std: float) -> None:
    """Set the factor that scales latents, so that their standard deviation is `std`.

    A latent's spread is mostly brightness and colour, which a hole's surround tells; texture and defects have about a
    third of it. At unit variance they drown in the noise of all but the last few steps of sampling, where nothing
    coherent can form any more (how the scale of the input shifts a noise schedule: Chen 2023, section 2.2).
    """
    pixels = torch.cat([to_tensor(pair.defect[None]) for pair in pool[:SCALE_PICTURES]]).to(vae.device)
    vae.register_to_config(scaling_factor=round(std / float(vae.encode(pixels).latents.std()), 4))


class HoleObjective(InpaintingObjective):
    """The published objective with two weights of the recipe: on the hole, and on some noise levels.

    `outside_weight` is that of the error outside of the hole, beside 1 inside of it. `timesteps_share` of the samples
    draw their timestep between the two `timesteps` alone (low, exclusive high).
    """

    def __init__(self, parts: Components, texts: list[str], cache: Cache, settings: Inpainting) -> None:
        super().__init__(
            unet=parts.unet,
            text=TrainableText(parts, texts),
            empty=texts.index(""),
            cache=cache,
            scheduler=parts.scheduler,
            min_snr_gamma=settings.min_snr_gamma,
            caption_dropout=settings.caption_dropout,
        )
        self.outside_weight = settings.outside_weight
        self.timesteps, self.timesteps_share = settings.timesteps, settings.timesteps_share

    def mean_error(self, squares: Tensor, masks: Tensor) -> Tensor:
        weights = masks + self.outside_weight * (1 - masks)
        return (weights / weights.mean(dim=(1, 2, 3), keepdim=True) * squares).mean(dim=(1, 2, 3))

    def draw_timestep(self, draw: torch.Generator) -> Tensor:
        if self.timesteps is not None and torch.rand((), generator=draw).item() < self.timesteps_share:
            return torch.randint(*self.timesteps, (1,), generator=draw)
        return super().draw_timestep(draw)


def train_phase(
    name: str, settings: Inpainting, parts: Components, pool: list[Pair], params: BaseParams, key: str
) -> None:
    """One phase of training U-Net and text encoder; its views are encoded once, also when the run is killed."""
    captions = [captions_of(pair, index, params.seed) for index, pair in enumerate(pool)]
    views = views_of(pool, captions, settings, params.pool, seed_for(params.seed, name))
    file = work_folder(f"base-latents-{name}", key) / "latents.safetensors"
    if not file.exists():
        tensors = zip(("latents", "masked", "masks"), encode_views(parts.vae, in_batches(views)), strict=True)
        write_bytes(file, as_bytes({part: tensor.contiguous() for part, tensor in tensors}))
    table: dict[str, int] = {"": 0}
    rows = tuple(tuple(table.setdefault(text, len(table)) for text in view.captions[:CAPTIONS]) for view in views)
    cache = Cache(**load_file(file, str(parts.unet.device)), captions=rows)
    objective = HoleObjective(parts, list(table), cache, settings)
    train(objective, len(rows), settings, params.seed, f"base-{name}", key, CURVES / name)


def save_half(parts: Components, base: Path) -> None:
    """Save all parts in half precision in the folder `base`, each of which is replaced as a whole."""
    unet = parts.unet.to(memory_format=torch.contiguous_format)
    round_mantissa(unet, MANTISSA)
    half = Components(unet.half(), parts.vae.half(), parts.text_encoder.half(), parts.tokenizer, parts.scheduler)
    with tempfile.TemporaryDirectory(dir=base, prefix="model.tmp-") as folder:
        save(half, Path(folder))
        for name in COMPONENTS:
            replace_folder(Path(folder, name), base / name)
        write_bytes(base / "model_index.json", Path(folder, "model_index.json").read_bytes())


@torch.no_grad()
def round_mantissa(module: nn.Module, bits: int) -> None:
    """Round every weight to `bits` bits behind its first one, so that the others are zero and compress well."""
    for weight in module.parameters():
        mantissa, exponent = torch.frexp(weight)
        weight.copy_(torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent))
