"""A student network that imitates a frozen teacher at three scales, with a bank of prompts (after RGPKD).

The teacher's features of good pictures lie in the bank. For every input the most similar entry, by the teacher's own
features, is looked up, and the student's decoder reads it by attention: so fine detail of good surfaces need not go
through the bottleneck, while nothing of the input itself goes around it into the features that are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.backbones import Backbone

STRIDES = (4, 8, 16)  # of the features that are compared
DEEPEST = 32  # stride of the student's bottleneck: sides of its inputs are multiples of it
POOLED = 16  # cells at most on a side of a bank entry: a map of 64 x 64 asks for an affinity of 4096 x 4096 otherwise
KEY_CELLS = 2  # on a side of what entries are looked up by
SMALLEST_DEVIATION = 1e-3  # of a channel, below which it says nothing and is not blown up


class Teacher(nn.Module):
    """Features of a frozen backbone at STRIDES, each channel with the mean and deviation that good pictures give it.

    Without that a few loud channels would be all that the student learns.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        # The deepest map that is no coarser, or the shallowest where none is.
        self.taps = [max([n for n, s in enumerate(backbone.strides) if s <= wanted], default=0) for wanted in STRIDES]
        self.channels = tuple(backbone.channels[tap] for tap in self.taps)
        for number, channels in enumerate(self.channels):
            self.register_buffer(f"mean_{number}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"deviation_{number}", torch.ones(1, channels, 1, 1))

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> (B, channels[i], H / STRIDES[i], W / STRIDES[i])."""
        maps = self.backbone(images)
        height, width = images.shape[-2:]
        features = []
        for number, (tap, stride) in enumerate(zip(self.taps, STRIDES, strict=True)):
            one = maps[tap]
            if one.shape[-2:] != (height // stride, width // stride):
                one = F.interpolate(one, (height // stride, width // stride), mode="bilinear", align_corners=False)
            features.append((one - getattr(self, f"mean_{number}")) / getattr(self, f"deviation_{number}"))
        return features

    def calibrate(self, features: Sequence[Tensor]) -> None:
        """Take mean and deviation of each channel from features of good pictures, as `forward` gave them untouched."""
        for number, one in enumerate(features):
            getattr(self, f"mean_{number}").copy_(one.mean(dim=(0, 2, 3), keepdim=True))
            deviation = one.std(dim=(0, 2, 3), keepdim=True).clamp(min=SMALLEST_DEVIATION)
            getattr(self, f"deviation_{number}").copy_(deviation)


@dataclass(frozen=True)
class Bank:
    """keys: (N, D), of length 1; entries: for each scale (N, C, h, w), h and w at most POOLED; owners: (N,) int64, the
    number of the picture that an entry is from."""

    keys: Tensor
    entries: list[Tensor]
    owners: Tensor

    @classmethod
    def of(cls, features: Sequence[Tensor], owners: Tensor) -> "Bank":
        """A bank of all windows whose features these are."""
        return cls(key_of(features[-1]), [pooled(one) for one in features], owners)

    def kept(self, chosen: Tensor) -> "Bank":
        """The bank of the chosen entries alone."""
        return Bank(self.keys[chosen], [entry[chosen] for entry in self.entries], self.owners[chosen])

    def nearest(self, deepest: Tensor, but: Tensor | None = None) -> Tensor:
        """For each window the number (B,) of the entry that is most like it, by its deepest features (B, C, h, w).

        but: (B,), the pictures whose own entries do not count, in training. A bank of one picture has no other ones.
        """
        likeness = key_of(deepest) @ self.keys.T
        if but is not None and len(self.owners.unique()) > 1:
            likeness = likeness.masked_fill(self.owners[None] == but[:, None], -math.inf)
        return likeness.argmax(dim=1)

    def prompts(self, numbers: Tensor) -> list[Tensor]:
        """The entries (B, C, h, w) of each scale."""
        return [entry[numbers] for entry in self.entries]


def key_of(deepest: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, D) of length 1: the features' means in KEY_CELLS x KEY_CELLS parts of the window."""
    return F.normalize(F.adaptive_avg_pool2d(deepest, KEY_CELLS).flatten(1), dim=1)


def pooled(features: Tensor) -> Tensor:
    """(B, C, H, W) with at most POOLED cells on a side."""
    height, width = features.shape[-2:]
    return F.adaptive_avg_pool2d(features, (min(POOLED, height), min(POOLED, width)))


class Prompt(nn.Module):
    """Adds to x (B, C, H, W) what attention from its places to those of an entry p (B, P, h, w) looks up.

    Only what is at a place of the entry counts, not where it is.
    """

    def __init__(self, channels: int, prompt: int) -> None:
        super().__init__()
        inner = max(channels // 2, 4)
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(prompt, inner, 1)
        self.value = nn.Conv2d(prompt, channels, 1)
        self.gate = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))

    def affinity(self, x: Tensor, p: Tensor) -> Tensor:
        """(B, HW, hw), whose rows sum to 1."""
        query, key = self.query(x).flatten(2), self.key(p).flatten(2)
        return (query.transpose(1, 2) @ key / query.shape[1] ** 0.5).softmax(dim=-1)

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        looked_up = self.affinity(x, p) @ self.value(p).flatten(2).transpose(1, 2)
        return x + self.gate * looked_up.transpose(1, 2).reshape(x.shape)


class Student(nn.Module):
    """(B, 3, H, W) in [0, 1], and prompts or None -> features like the teacher's, and the picture (B, 3, H, W) in
    (0, 1). H and W are multiples of DEEPEST.

    width: channels at half of the picture's size; each level below has twice as many, up to eight times.
    channels: of the teacher at STRIDES. skips: whether the encoder's maps go around the bottleneck into the features
    that are compared, as published; into the picture they do in any case.
    """

    def __init__(self, channels: Sequence[int], width: int, skips: bool) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]  # at strides 2, 4, 8, 16, 32
        self.encoder = nn.ModuleList(
            _block(before, after, stride=2) for before, after in zip([3, *widths[:-1]], widths, strict=True)
        )
        deeper, levels = widths[:0:-1], widths[-2::-1]  # 32, 16, 8, 4 and, one above each, 16, 8, 4, 2
        self.decoder = nn.ModuleList(_block(before, after) for before, after in zip(deeper, levels, strict=True))
        self.prompts = nn.ModuleList(
            Prompt(own, theirs) for own, theirs in zip(levels[:3], reversed(channels), strict=True)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(own, theirs, 3, padding=1) for own, theirs in zip(levels[:3], reversed(channels), strict=True)
        )
        self.picture = nn.Conv2d(width, 3, 3, padding=1)
        self.skips = skips

    def forward(self, images: Tensor, prompts: Sequence[Tensor] | None) -> tuple[list[Tensor], Tensor]:
        maps, x = [], (images - 0.5) / 0.25
        for encode in self.encoder:
            x = encode(x)
            maps.append(x)
        features: list[Tensor] = []
        above = maps[-2::-1]  # strides 16, 8, 4, 2
        for level, (decode, skip) in enumerate(zip(self.decoder, above, strict=True)):
            x = decode(_doubled(x))
            if level == len(self.heads):
                break
            if prompts is not None:
                x = self.prompts[level](x, prompts[len(self.heads) - 1 - level])
            if self.skips:
                x = x + skip
            features.insert(0, self.heads[level](x))
        return features, self.picture(_doubled(x + above[-1])).sigmoid()


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """GroupNorm, not batch norm: what a window scores must not depend on the others of its batch."""
    groups = next(n for n in (4, 2, 1) if after % n == 0)
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(groups, after), nn.ReLU(inplace=True))
