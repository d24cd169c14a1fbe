"""The networks of asymmetric distillation with prompts: teacher, student, and the bank of teacher features.

Sections 3.x are those of "Reconstruction-Guided and Prompt-Enhanced Asymmetric Knowledge Distillation for Anomaly
Detection" (RGPKD), as its public code shows them. That code does not run; this is a working version.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.vision.backbones import Backbone, maps_at, taps
from lib.vision.reconstruction import convolution, cosine_maps, group_norm, ssim

STRIDES = (2, 4, 8, 16)  # of the maps of teacher and encoder, e1 to e4; all but the first are compared
MULTIPLE = 32  # picture sides are multiples of the stride of the student's deepest map
POOLED = 32  # entries are pooled to this side: the affinity of 64 x 64 positions would take 64 MiB per picture

Skips = Literal["none", "picture", "features"]
Distance = Literal["mse", "cosine"]


class Prompt(nn.Module):
    """Cross-attention of a decoder feature x to the bank entry p of its scale, added to x (section 3.2).

    x: (B, C, H, W), p: (B, P, h, w) -> (B, C, H, W). theta, phi and value are 1x1 convolutions to m channels; each
    position of x attends to all positions of p. The gate is one weight per channel.
    """

    def __init__(self, channels: int, entry_channels: int, m: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, m, 1)
        self.phi = nn.Conv2d(entry_channels, m, 1)
        self.value = nn.Conv2d(entry_channels, m, 1)
        self.out = nn.Conv2d(m, channels, 1)
        self.gate = nn.Parameter(torch.zeros(channels, 1, 1))

    def affinity(self, x: Tensor, p: Tensor) -> Tensor:
        """(B, H W, h w), where each row sums to 1: the row-softmax of theta^T phi / sqrt(m)."""
        theta, phi = self.theta(x).flatten(2), self.phi(p).flatten(2)
        scaled = theta / theta.shape[1] ** 0.5  # before the product, which is larger
        return (scaled.transpose(1, 2) @ phi).softmax(dim=2)

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        if max(p.shape[-2:]) > POOLED:
            p = F.adaptive_avg_pool2d(p, (min(p.shape[-2], POOLED), min(p.shape[-1], POOLED)))
        looked_up = self.affinity(x, p) @ self.value(p).flatten(2).transpose(1, 2)
        return x + self.gate.sigmoid() * self.out(looked_up.transpose(1, 2).unflatten(2, x.shape[-2:]))


class Encoder(nn.Module):
    """(B, 3, H, W) float in [0, 1] -> e1 to e4 at STRIDES: two convolutions each, trained from scratch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = [width // 2, width, 2 * width, 4 * width]
        self.levels = nn.ModuleList(
            nn.Sequential(*convolution(before, after, stride=2), *convolution(after, after))
            for before, after in itertools.pairwise([3, *self.channels])
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [(image - 0.5) / 0.25]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[1:]


class Pretrained(nn.Module):
    """(B, 3, H, W) float in [0, 1] -> a backbone's maps, resized to STRIDES if it has others."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = [backbone.channels[tap] for tap in taps(backbone.strides, STRIDES)]

    def forward(self, image: Tensor) -> list[Tensor]:
        return maps_at(STRIDES, self.backbone, image)


class Teacher(Pretrained):
    """The frozen teacher, without gradient and always in evaluation mode. F1, F2 and F3 are the last three maps.

    They are not normalised per channel: without its offset a channel that is nearly constant would contribute only
    noise to the cosine.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone.requires_grad_(False))

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        return super().forward(image)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)


class Student(nn.Module):
    """The U-Net that imitates the teacher's maps and reconstructs the picture (section 3.1).

    (B, 3, H, W) float in [0, 1] with sides that are multiples of 32, the four maps of the teacher, and three bank
    entries -> S1 to S3 in the teacher's shapes, and the picture (B, 3, H, W) in (0, 1). encoder: gives e1 to e4; None
    reuses the teacher's maps. S1 to S3 depend on the deepest map only: skip connections, by which anomalies would
    bypass the bottleneck, lead to the picture (`skips: picture`), nowhere (`none`), or also to S1 to S3 (`features`).
    prompts: False works without bank entries.
    """

    def __init__(
        self,
        teacher_channels: Sequence[int],
        encoder: Encoder | Pretrained | None,
        width: int,
        skips: Skips,
        prompts: bool,
    ) -> None:
        super().__init__()
        self.encoder, self.skips = encoder, skips
        e1, e2, e3, e4 = encoder.channels if encoder else teacher_channels
        self.deepest = nn.Sequential(*convolution(e4, 8 * width, stride=2), *convolution(8 * width, 8 * width))
        outs = teacher_channels[:0:-1]  # d1 imitates F3, d3 imitates F1
        inner = [4 * width, 2 * width, width]
        raw = [e4, e3, e2] if skips == "features" else [0, 0, 0]
        self.up = nn.ModuleList(
            nn.Sequential(*_doubling(before, after))
            for before, after in zip([8 * width, *outs[:2]], inner, strict=True)
        )
        self.prompts = nn.ModuleList(
            Prompt(channels, entry, channels // 2) for channels, entry in zip(inner, outs, strict=True) if prompts
        )
        self.fuse = nn.ModuleList(
            nn.Conv2d(channels + skip, out, 3, padding=1) for channels, skip, out in zip(inner, raw, outs, strict=True)
        )
        beside = [0, 0] if skips == "none" else [e2, e1]
        self.picture_up = nn.Sequential(*_doubling(outs[2] + beside[0], width))
        self.picture_out = nn.Conv2d(width + beside[1], 3, 3, padding=1)

    def forward(
        self, image: Tensor, features: Sequence[Tensor], entries: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """Raises ValueError for other sides, and if entries are given without prompts or missing with prompts."""
        if image.shape[-2] % MULTIPLE or image.shape[-1] % MULTIPLE:
            size = f"{image.shape[-1]} x {image.shape[-2]}"
            raise ValueError(f"a picture of {size} px: the student needs sides that are multiples of {MULTIPLE}")
        if (entries is None) == bool(self.prompts):
            raise ValueError("a student with prompts needs bank entries, one without takes none")
        e1, e2, e3, e4 = self.encoder(image) if self.encoder else features
        x, students = self.deepest(e4), []
        for n, (up, fuse, skip) in enumerate(zip(self.up, self.fuse, (e4, e3, e2), strict=True)):
            x = up(x)
            if entries is not None:
                x = self.prompts[n](x, entries[-1 - n])
            x = fuse(torch.cat([x, skip], dim=1) if self.skips == "features" else x)
            students.append(x)
        x = self.picture_up(x if self.skips == "none" else torch.cat([x, e2], dim=1))
        x = self.picture_out(x if self.skips == "none" else torch.cat([x, e1], dim=1)).sigmoid()
        picture = F.interpolate(x, image.shape[-2:], mode="bilinear", align_corners=False)
        return students[::-1], picture


@dataclass(frozen=True)
class Bank:
    """Teacher features of windows of good pictures (section 3.3).

    keys: (N, C3) float32, unit vectors; entries: three maps (N, C, h, w) float16; owners: (N,), the picture of each.
    """

    keys: Tensor
    entries: Sequence[Tensor]
    owners: Tensor

    def nearest(self, deepest: Tensor, exclude: Tensor | None = None) -> Tensor:
        """For each F3 (B, C3, h, w) the index (B,) of the entry whose key has the highest cosine similarity.

        exclude: (B,), for each a picture whose entries are ignored: in training a window must not find itself.
        """
        similarity = key_of(deepest) @ self.keys.T
        if exclude is not None:
            similarity = similarity.masked_fill(exclude[:, None] == self.owners[None], -torch.inf)
        return similarity.argmax(dim=1)

    def fetch(self, numbers: Tensor) -> list[Tensor]:
        """The three maps (B, C, h, w) float32 of the entries with these indices."""
        return [entries[numbers].float() for entries in self.entries]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, to be saved; `of` is the inverse."""
        entries = {f"entries{n}": entries for n, entries in enumerate(self.entries)}
        return {"keys": self.keys, "owners": self.owners, **entries}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Bank":
        return cls(tensors["keys"], [tensors[f"entries{n}"] for n in range(3)], tensors["owners"])


def key_of(deepest: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C): the mean over all positions, normalised to unit length."""
    return F.normalize(deepest.mean(dim=(2, 3)), dim=1)


def total_loss(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    image: Tensor,
    picture: Tensor,
    distance: Distance,
    weights: tuple[float, float, float],
) -> Tensor:
    """The weighted sum of sum_i distance(S_i, F_i), MSE(picture, image) and 1 - SSIM(picture, image) (section 3.4).

    image, picture: (B, 3, H, W), both in [0, 1]. At least one weight is above 0. Raises ValueError if the shapes of a
    scale differ.
    """
    cosine = cosine_maps(student, teacher)

    def features() -> Tensor:
        if distance == "cosine":
            return torch.stack([one.mean() for one in cosine]).sum()
        return torch.stack([F.mse_loss(s, f) for s, f in zip(student, teacher, strict=True)]).sum()

    terms = features, lambda: F.mse_loss(picture, image), lambda: 1 - ssim(picture, image).mean()
    return torch.stack([weight * term() for weight, term in zip(weights, terms, strict=True) if weight]).sum()


def score_map(
    teacher: Sequence[Tensor], student: Sequence[Tensor], size: Sequence[int], weights: tuple[float, float, float]
) -> Tensor:
    """(B, *size): at each pixel the weighted sum of 1 - cosine over the three scales, at most twice the sum of the
    weights, which are 1 in section 3.5."""
    maps = [
        F.interpolate((weight * one)[:, None], list(size), mode="bilinear", align_corners=False)[:, 0]
        for weight, one in zip(weights, cosine_maps(student, teacher), strict=True)
    ]
    return torch.stack(maps).sum(dim=0)


def _doubling(before: int, after: int) -> tuple[nn.Module, ...]:
    """up(.) of section 3.1: doubles the size by a transposed convolution without overlap."""
    return nn.ConvTranspose2d(before, after, 2, stride=2, bias=False), group_norm(after), nn.ReLU(inplace=True)
