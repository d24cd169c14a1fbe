"""PatchCore: distances to a memory bank of good patches (Roth et al. 2022, "Towards Total Recall in Industrial Anomaly
Detection"). Nothing is trained: patches of good pictures are stored, and what is far from all of them is a defect.

Sections and equations are the paper's. Two things differ. Pictures are processed in overlapping tiles, so that large
ones fit into memory; for the same reason the patches of many pictures are subsampled at random before the coreset is
chosen. The re-weighted score of a picture (eq. 7) is left out: a detector here returns a map, and the driver scores the
pictures of every detector by the mean of the highest 0.1 % of their pixels.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.core.errors import UserError
from lib.core.geometry import RGB, Scores, crop, rescale
from lib.core.params import Params, Positive, Section
from lib.core.runtime import device, progress, seed_for, write_json
from lib.vision.backbones import Backbone, image_tensor, load_backbone, rebuild, taps
from lib.vision.coreset import greedy_coreset, projected
from lib.vision.examples import Example, History
from lib.vision.fitting import copied
from lib.vision.tiles import Sight, predict_whole, tiles

LEARNS_FROM = "good"
STRIDES = (8, 16)  # of the two levels (section 3.1: the middle ones of a ResNet)
NEIGHBOURHOOD = 3  # p in section 3.1: side of the neighbourhood over which features are averaged
CANDIDATES = 50_000  # patches from which the coreset is chosen: 30 MB for EfficientNet-Lite0
TILE = 256  # pixels; the smallest tile
LARGEST = 544  # pixels; the largest tile: it has few patches near its border, where features see padding
OVERLAP = 64  # pixels; at seams, scores differ by up to 7 % from those of the whole picture, and by 23 % with 32
BATCH = 1  # tiles per call: the feature maps of more do not fit into a processor's cache
CHUNK = 4096  # patches whose distances to the whole memory bank are computed at once
PIECES = 8  # into which the ONNX graph splits the patches, so that their products fit into a core's cache
GROUP = 50  # size of the groups of memory patches in the ONNX graph's search for the nearest one
SMOOTHING = 4.0  # pixels; standard deviation of the Gaussian in section 3.3
CURVE_POINTS = 50


class Settings(Section):
    coreset: Positive  # patches in the memory bank


@dataclass(frozen=True)
class Model:
    """The memory bank (N, C) of good patches, with the backbone and the scale of pictures."""

    backbone: Backbone
    memory: Tensor
    scale: float


def fit(
    train: Sequence[Example], val: Sequence[Example], params: Params, settings: Settings, seed: int, out: Path
) -> History:
    """Build the memory bank from the good pictures of the train part; val is not used.

    The curve is the covering radius of the coreset. Raises UserError if there is no good picture, or `detect.encoder`
    names no backbone.
    """
    good = [example for example in train if not example.has_defect]
    if not good:
        raise UserError("the train part holds no good picture to learn from: see split in params.yaml")
    backbone = load_backbone(params.detect.encoder, params.base.allow_download).requires_grad_(False).to(device())
    patches = _candidates(backbone, good, params.detect.scale, seed)
    chosen, radii = greedy_coreset(projected(patches, seed), settings.coreset, seed)
    memory = patches[chosen]
    weights = {f"backbone.{name}": value for name, value in copied(backbone).items()}
    save_file(weights | {"memory": memory.cpu()}, out / "model.safetensors")
    write_json(out / "config.json", {"scale": params.detect.scale, "backbone": backbone.description})
    every = max(1, len(radii) // CURVE_POINTS)
    return History({"covering radius": [(n, round(radius, 6)) for n, radius in enumerate(radii, start=1)][::every]})


def load(folder: Path) -> Model:
    """Load what `fit` wrote, with the backbone's weights, onto this machine's device."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    memory, backbone = weights.pop("memory"), rebuild(config["backbone"])
    backbone.load_state_dict({name.removeprefix("backbone."): value for name, value in weights.items()})
    return Model(backbone.requires_grad_(False).to(device()), memory.to(device()), config["scale"])


@torch.inference_mode()
def predict(model: Model, image: RGB) -> Scores:
    """The distance of each pixel's patch to the nearest in the memory bank (eq. 6), upsampled and smoothed (section
    3.3).

    (H, W, 3) uint8 -> (H, W) float32, at least 0, in units of the backbone's features.
    """

    def predict_batch(views: NDArray) -> NDArray:
        return window_scores(model, image_tensor(views, model.memory.device)).cpu().numpy()

    return predict_whole(image, predict_batch, sight(model))


def sight(model: Model) -> Sight:
    return Sight(TILE, OVERLAP, max(model.backbone.strides), BATCH, model.scale, SMOOTHING, largest=LARGEST)


def window_scores(model: Model, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> distances (B, H, W), at least 0, before smoothing."""
    patches, (height, width) = patch_features(model.backbone, images)
    distances = nearest_distance(patches, model.memory).view(images.shape[0], 1, height, width)
    return F.interpolate(distances, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def patch_features(backbone: Backbone, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Locally aware patch features (section 3.1) of (B, 3, H, W) in [0, 1]: (B * h * w, C) float32, and (h, w).

    Features of two levels are averaged over neighbourhoods (eq. 2), the deeper ones are resized to the shallower ones,
    and both are concatenated.
    """
    maps = backbone(images)
    levels = [
        F.avg_pool2d(maps[tap], NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2, count_include_pad=False)
        for tap in taps(backbone.strides, STRIDES)
    ]
    size = levels[0].shape[-2:]
    levels[1:] = [F.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels[1:]]
    features = torch.cat(levels, dim=1)
    return features.permute(0, 2, 3, 1).flatten(0, 2), (size[0], size[1])


@torch.inference_mode()
def _candidates(backbone: Backbone, good: Sequence[Example], scale: float, seed: int) -> Tensor:
    """(N, C) patches of the good pictures, at most about CANDIDATES, equally many of each picture."""
    rng = np.random.default_rng(seed_for(seed, "pictures"))
    order = rng.permutation(len(good))[:CANDIDATES]
    each = CANDIDATES // len(order)
    kept = []
    for n in progress(order, f"remember good pictures, seed {seed}"):
        views = _views(good[n].image, scale, backbone)
        patches = torch.cat([patch_features(backbone, image_tensor(batch, backbone.mean.device))[0] for batch in views])
        draw = np.random.default_rng(seed_for(seed, "patches", int(n))).permutation(len(patches))[:each]
        kept.append(patches[torch.from_numpy(draw).to(patches.device)])
    return torch.cat(kept)


def _views(image: RGB, scale: float, backbone: Backbone) -> Iterator[NDArray[np.uint8]]:
    """The tiles of `predict` in batches (B, side, side, 3)."""
    small = rescale(image, scale)
    windows = tiles(small.shape, TILE, OVERLAP, max(backbone.strides), LARGEST)
    for first in range(0, len(windows), BATCH):
        yield np.stack([crop(small, window) for window in windows[first : first + BATCH]])


def nearest_distance(patches: Tensor, memory: Tensor) -> Tensor:
    """(N, C), (M, C) -> (N,): the distance of each patch to the nearest in the memory bank (eq. 6), in limited memory.

    A matrix product, |m|^2 - 2 p m, finds the nearest one: it is fast, but inexact for small distances. The distance is
    then computed from the difference, so that it is exactly 0 for a patch in the memory bank.
    """
    if torch.onnx.is_in_onnx_export():  # a traced graph has no loops of variable length; its batches are limited
        ends = [patches.shape[0] * n // PIECES for n in range(PIECES + 1)]
        parts = [patches[start:end] for start, end in itertools.pairwise(ends)]
        return torch.cat([(part - memory[_nearest_by_groups(part, memory)]).norm(dim=1) for part in parts])
    norms = memory.square().sum(dim=1)

    def nearest(chunk: Tensor) -> Tensor:
        index = torch.addmm(norms, chunk, memory.T, alpha=-2).argmin(dim=1)
        return (chunk - memory[index]).norm(dim=1)

    return torch.cat([nearest(chunk) for chunk in patches.split(CHUNK)])


def _nearest_by_groups(patches: Tensor, memory: Tensor) -> Tensor:
    """(N, C), (M, C) -> (N,): the index of the nearest in the memory bank, for onnxruntime.

    There, a minimum is several times as fast as an argmin. So the minimum of each group of GROUP selects the group, and
    the argmin is searched in it. |m|^2 is an additional column of the product, which is cheaper than adding it later.
    """
    padded = torch.cat([memory, memory[:1].expand(-len(memory) % GROUP, -1)])  # of equals, the first one is found
    ones = torch.ones_like(patches[:, :1])
    columns = torch.cat([-2 * padded, padded.square().sum(dim=1, keepdim=True)], dim=1).T
    groups = (torch.cat([patches, ones], dim=1) @ columns).view(-1, len(padded) // GROUP, GROUP)
    best = groups.amin(dim=2).argmin(dim=1)
    within = groups.gather(1, best[:, None, None].expand(-1, 1, GROUP))[:, 0].argmin(dim=1)
    return GROUP * best + within
