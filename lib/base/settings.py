"""The settings of models/base.yaml, typed and validated, and the few numbers that all parts of the recipe share."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lib.core.params import Positive, Section, Share, Training
from lib.core.runtime import source

SIDE = 128  # pixels of a rendered picture
CURVES = Path(".work/base-curves")  # loss curves, one folder for each phase
[RENDERER] = source("lib.dataset.surfaces")
CODE = ("lib.base", "lib.core", "lib.diffusion", "lib.language")  # changed code gives other weights


class Pool(Section):
    pairs: Positive
    normal_share: Share
    mask_share: Share


class Reconstruction(Training):
    """A phase of the autoencoder."""

    crop: Positive  # pixels; the network is convolutional, so small pieces of many pictures teach more per second
    noise: Annotated[float, Field(ge=0)]
    tint_share: Share


class Autoencoder(Reconstruction):
    width: Positive


class Inpainting(Training):
    """A phase of the U-Net."""

    views: Annotated[float, Field(gt=0)]
    line_views: Positive  # of pairs whose defect is a line
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
    """The whole of models/base.yaml; what each key means stands there, behind its value."""

    seed: int
    pool: Pool
    autoencoder: Autoencoder
    sharpening: Reconstruction
    decoder: Reconstruction
    unet: UNet
    lines: Inpainting
    strokes: OwnPairs
    windows: Windows
