"""A small U-Net on windows (Ronneberger et al. 2015), trained on real and synthetic defects.

Designed for two CPU cores: only two thin convolutions work at full resolution, all others at half of it or less. Skip
connections are added instead of concatenated, which halves the decoder. The encoder is a backbone that was pretrained
on ImageNet (`detect.encoder`), since a few defects are not enough to learn features, or, with `none`, convolutions that
are trained from scratch.
"""

import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.core.defects import Labels
from lib.core.geometry import RGB, Scores
from lib.core.params import Detect, Params, Positive, Section, Share
from lib.core.runtime import device, dtype_of, seed_for, write_json
from lib.vision.backbones import NONE, Backbone, image_tensor, load_backbone, rebuild
from lib.vision.examples import Example, History
from lib.vision.fitting import DRAWING, VALIDATED, best_weights, parameter_groups, pixel_precision, training_steps
from lib.vision.tiles import Sight, predict_whole
from lib.vision.windows import Pools, batch_of, evenly_by_type

LEARNS_FROM = "defects"
LEVELS = 4  # below full resolution, at 1/2, 1/4, 1/8 and 1/16
DETAIL = 8  # channels at full resolution
LARGEST = 544  # pixels; largest tile of a whole picture: larger tiles have less overlap and less padding
BATCH = 1  # tiles per call: the feature maps of more do not fit into a processor's cache


class Settings(Section):
    """width: channels at half resolution, doubled at each level below.

    encoder_rate: learning rate of the backbone, as a multiple of detect.learning_rate; 0 freezes it. classes: defect:
    defective or not; types: also which type of defect.
    """

    width: Positive
    encoder_rate: Share
    classes: Literal["defect", "types"]


class UNet(nn.Module):
    """(B, 3, H, W) float in [0, 1] -> logits (B, 1 + types, H, W); H and W are multiples of 16.

    The first channel is the logit of a defect, the others are those of its type. backbone: the encoder.
    """

    def __init__(self, width: int, backbone: Backbone | None = None, types: int = 0) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(LEVELS)]
        # No norm at full resolution, where it would cost as much as the convolution.
        self.detail = nn.Sequential(nn.Conv2d(3, DETAIL, 3, padding=1), nn.ReLU(inplace=True))
        self.encoder = Pretrained(backbone, channels) if backbone else Plain([DETAIL, *channels])
        skips = [DETAIL, *channels[:-1]]
        self.narrow = nn.ModuleList(nn.Conv2d(below, skip, 1) for below, skip in zip(channels, skips, strict=True))
        self.decoder = nn.ModuleList(nn.Sequential(*_convolution(skip, skip)) for skip in skips)
        self.head = nn.Conv2d(DETAIL, 1 + types, 1)

    def forward(self, x: Tensor) -> Tensor:
        detail = self.detail((x - 0.5) / 0.25)
        maps: list[Tensor] = self.encoder(x, detail)
        *skips, x = detail, *maps
        for skip, narrow, decode in zip(reversed(skips), reversed(self.narrow), reversed(self.decoder), strict=True):
            x = decode(skip + F.interpolate(narrow(x), scale_factor=2, mode="bilinear", align_corners=False))
        with torch.autocast(x.device.type, enabled=False):  # thresholds lie between scores, of which bf16 has few
            return self.head(x.float())

    def groups(self, learning_rate: float, encoder_rate: float) -> list[dict[str, Any]]:
        """The trainable weights, for an optimizer: the backbone's at `encoder_rate` times the learning rate."""
        backbone = self.encoder.backbone if isinstance(self.encoder, Pretrained) else None
        return parameter_groups(self, backbone, learning_rate, encoder_rate * learning_rate)


class Plain(nn.Module):
    """Two convolutions per level: the detail (B, DETAIL, H, W) -> maps at 1/2 to 1/16 of its size."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(*_convolution(before, after), *_convolution(after, after))
            for before, after in itertools.pairwise(channels)
        )

    def forward(self, image: Tensor, detail: Tensor) -> list[Tensor]:
        maps = [detail]
        for encode in self.levels:
            maps.append(encode(F.max_pool2d(maps[-1], 2)))
        return maps[1:]


class Pretrained(nn.Module):
    """A backbone's features of the image (B, 3, H, W), as many and of the same sizes as those of the plain encoder.

    Maps of a backbone with fewer levels are used twice; those with other strides are resized.
    """

    def __init__(self, backbone: Backbone, channels: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = [level * len(backbone.channels) // LEVELS for level in range(LEVELS)]
        self.lateral = nn.ModuleList(
            nn.Sequential(*_convolution(backbone.channels[tap], after, size=1))
            for tap, after in zip(self.taps, channels, strict=True)
        )

    def forward(self, image: Tensor, detail: Tensor) -> list[Tensor]:
        features = self.backbone(image)
        maps = []
        for level, (tap, lateral) in enumerate(zip(self.taps, self.lateral, strict=True), start=1):
            size = [extent >> level for extent in image.shape[-2:]]
            narrow = lateral(features[tap])
            if list(narrow.shape[-2:]) != size:
                narrow = F.interpolate(narrow, size, mode="bilinear", align_corners=False)
            maps.append(narrow)
        return maps


def _convolution(before: int, after: int, size: int = 3) -> tuple[nn.Module, ...]:
    """With group norm: a batch of few windows, half of them without defect, has no reliable statistics."""
    groups = next(n for n in (4, 2, 1) if after % n == 0)
    convolution = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
    return convolution, nn.GroupNorm(groups, after), nn.ReLU(inplace=True)


@dataclass(frozen=True)
class Model:
    """A trained network with the window and the scale of its training, and the types that it classifies."""

    network: UNet
    window: int
    scale: float
    types: tuple[str, ...] = ()


def fit(
    train: Sequence[Example], val: Sequence[Example], params: Params, settings: Settings, seed: int, out: Path
) -> History:
    """Train on windows and write the weights with the best pixel AP on val; without defects in val, the last ones.

    Step n of a seed always draws the same windows, so that equal input gives equal weights, bit for bit on a CPU.
    Raises UserError if there is no defect to learn from, or `detect.encoder` names no backbone.
    """
    detect, pools = params.detect, Pools.of(train)
    types = tuple(pools.types) if settings.classes == "types" else ()
    model = Model(_untrained(params, settings, seed, len(types)), detect.window, detect.scale, types)
    few = evenly_by_type(val, VALIDATED)
    selects = any(example.has_defect for example in few)
    if not selects:
        warnings.warn("the val part holds no defect: the last weights are kept, not the best ones", stacklevel=2)
    weights, history = best_weights(
        _training(model, pools, detect, settings.encoder_rate, seed),
        model.network,
        (lambda: pixel_precision(partial(predict, model), few)) if selects else None,
        detect.validate_every,
        detect.steps,
        "pixel AP on val",
    )
    save_file(weights, out / "model.safetensors")
    backbone = getattr(model.network.encoder, "backbone", None)
    config = {"width": settings.width, "window": detect.window, "scale": detect.scale, "types": types}
    config |= {"backbone": backbone.description if backbone else None}
    config |= {"frozen": backbone is not None and not settings.encoder_rate}
    write_json(out / "config.json", config)
    return history


def _untrained(params: Params, settings: Settings, seed: int, types: int = 0) -> UNet:
    """The network before its first step, on this machine's device."""
    name = params.detect.encoder
    with DRAWING, torch.random.fork_rng(devices=[]):
        backbone = None if name == NONE else load_backbone(name, params.base.allow_download)
        if backbone and not settings.encoder_rate:
            backbone.requires_grad_(False)
        torch.manual_seed(seed_for(seed, "weights"))
        return UNet(settings.width, backbone, types).to(device())


def _training(
    model: Model, pools: Pools, detect: Detect, encoder_rate: float, seed: int
) -> Iterator[tuple[int, float]]:
    """Train the network, and yield each step, from 1 on, with its loss."""
    network, where = model.network, next(model.network.parameters()).device

    def loss_of(step: int) -> Tensor:
        batch = batch_of(pools, detect, np.random.default_rng(seed_for(seed, "windows", step)), types=model.types)
        with _mixed(where):
            logits = network(image_tensor(batch.images, where))
        loss = segmentation_loss(logits[:, 0], torch.from_numpy(batch.masks).to(where).float())
        if model.types:
            loss = loss + type_loss(logits[:, 1:], torch.from_numpy(batch.labels).to(where).long())
        return loss

    groups = network.groups(detect.learning_rate, encoder_rate)
    return training_steps(network, groups, detect.steps, seed, loss_of, fp16=dtype_of(where) == torch.float16)


def load(folder: Path) -> Model:
    """Load what `fit` wrote, with the backbone's weights, onto this machine's device."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with DRAWING:
        backbone = rebuild(config["backbone"]) if config["backbone"] else None
        types = tuple(config.get("types", ()))  # models of earlier versions have none
        if backbone and config.get("frozen"):  # models of earlier versions do not say so
            backbone.requires_grad_(False)
        network = UNet(config["width"], backbone, len(types))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Model(network.to(device()).eval(), config["window"], config["scale"], types)


@torch.inference_mode()
def predict(model: Model, image: RGB) -> Scores:
    """Defect probabilities of a whole picture: (H, W, 3) uint8 -> (H, W) float32 in [0, 1], at native size."""
    return predict_whole(image, partial(_of_tiles, model, partial(window_scores, model)), sight(model))


@torch.inference_mode()
def predict_typed(model: Model, image: RGB) -> tuple[Scores, Labels]:
    """The scores of `predict`, and (H, W) uint8: k where the k-th of `model.types` is the most likely type."""

    def shares(images: Tensor) -> Tensor:
        logits = model.network(images)
        return torch.cat([logits[:, :1].sigmoid(), logits[:, 1:].softmax(dim=1)], dim=1)

    scores, *of_types = predict_whole(image, partial(_of_tiles, model, shares), sight(model))
    return scores, (np.argmax(of_types, axis=0) + 1).astype(np.uint8)


def _of_tiles(model: Model, score: Callable[[Tensor], Tensor], tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What `score` makes of tiles (B, side, side, 3)."""
    where = next(model.network.eval().parameters()).device
    with _mixed(where):
        return score(image_tensor(tiles, where)).cpu().numpy()


def _mixed(where: torch.device) -> torch.autocast:
    dtype = dtype_of(where)
    return torch.autocast(where.type, dtype, enabled=dtype != torch.float32)


def sight(model: Model) -> Sight:
    return Sight(model.window, model.window // 4, 2**LEVELS, BATCH, model.scale, largest=LARGEST)


def window_scores(model: Model, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> defect probabilities (B, H, W)."""
    return model.network(images)[:, 0].sigmoid()


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross entropy plus the mean soft Dice loss (Milletari et al. 2016) of the windows that show a defect.

    logits, masks: (B, H, W). Dice is computed per window: over the whole batch, a defect of half a window would
    outweigh one of twenty pixels. For windows without a defect it is undefined.
    """
    probabilities, shows = logits.sigmoid(), masks.amax(dim=(1, 2))
    overlap = 2 * (probabilities * masks).sum(dim=(1, 2)) + 1
    dice = overlap / (probabilities.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)
    missing = ((1 - dice) * shows).sum() / shows.sum().clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, masks) + missing


def type_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the types (B, K, H, W) on defect pixels; labels (B, H, W) from 1 to K, 0 for no defect.

    Averaged over each window's defect pixels, then over the windows that show a defect, as Dice. Together with the
    binary cross entropy this is a cross entropy of K + 1 classes in which types are normalised by defect pixels only.
    """
    shows = (labels > 0).float()
    pixels = F.cross_entropy(logits, (labels - 1).clamp(min=0), reduction="none") * shows
    windows = pixels.sum(dim=(1, 2)) / shows.sum(dim=(1, 2)).clamp(min=1)
    return windows.sum() / shows.amax(dim=(1, 2)).sum().clamp(min=1)
