"""The networks of asymmetric distillation with prompts: teacher, student, and the bank of what the teacher saw.

Sections 3.x are those of "Reconstruction-Guided and Prompt-Enhanced Asymmetric Knowledge Distillation for Anomaly
Detection" (RGPKD), as its public code shows them. That code does not run; what stands here is a working form of it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.vision.backbones import Backbone, taps
from lib.vision.reconstruction import convolution, cosine_maps, group_norm, ssim, summed

STRIDES = (2, 4, 8, 16)  # of the teacher's maps and of the encoder's, e1 to e4; all but the first are compared
MULTIPLE = 32  # of the picture's sides: the student's deepest map has this stride
POOLED = 32  # positions on each side to which an entry is pooled, as a 64 x 64 affinity would take 64 MiB a picture

Skips = Literal["none", "picture", "features"]
Distance = Literal["mse", "cosine"]


class Prompt(nn.Module):
    """Add what the decoder's feature x finds in a bank entry p of its scale (section 3.2).

    x: (B, C, H, W), p: (B, P, h, w) -> (B, C, H, W). theta, phi and value are 1x1 convolutions to m channels; each
    position of x attends to all positions of p. The gate, a share for each channel, does not depend on the position.
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
        return (theta.transpose(1, 2) @ phi / theta.shape[1] ** 0.5).softmax(dim=2)

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
    """(B, 3, H, W) float in [0, 1] -> a backbone's maps, at STRIDES, of the sizes that belong to them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = taps(backbone.strides, STRIDES)
        self.channels = [backbone.channels[tap] for tap in self.taps]

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.backbone(image)
        sizes = [[extent // stride for extent in image.shape[-2:]] for stride in STRIDES]
        return [
            maps[tap]
            if list(maps[tap].shape[-2:]) == size
            else F.interpolate(maps[tap], size, mode="bilinear", align_corners=False)
            for tap, size in zip(self.taps, sizes, strict=True)
        ]


class Teacher(Pretrained):
    """Without gradient, and frozen, whatever `.train()` says. F1, F2 and F3 are the last three maps.

    They are taken as they are: a channel's offset is a part of the direction that a cosine compares, and keeps noise
    about it from being the whole of it.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone.requires_grad_(False))

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        return super().forward(image)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)


class Student(nn.Module):
    """The U-Net that imitates the teacher's maps and rebuilds the picture (section 3.1).

    (B, 3, H, W) float in [0, 1], sides multiples of 32, the teacher's four maps, and three bank entries -> S1 to S3
    of the teacher's shapes, and the picture (B, 3, H, W) in (0, 1). encoder: its way down, or None: then the teacher's
    maps, which are there anyway, are e1 to e4. All that reaches S1 to S3 passes the deepest map; raw skips, which would
    carry an anomaly past it, reach the picture alone (`skips: picture`), nothing, or both. With prompts = False there
    are no entries, neither in training nor afterwards.
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
        self, image: Tensor, seen: Sequence[Tensor], entries: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """Raises ValueError for other sides, and for entries where it has no prompts, or the other way round."""
        if image.shape[-2] % MULTIPLE or image.shape[-1] % MULTIPLE:
            size = f"{image.shape[-1]} x {image.shape[-2]}"
            raise ValueError(f"a picture of {size} px: the student needs sides that are multiples of {MULTIPLE}")
        if (entries is None) == bool(self.prompts):
            raise ValueError("a student with prompts needs bank entries, one without takes none")
        e1, e2, e3, e4 = self.encoder(image) if self.encoder else seen
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
    """What the teacher saw in good pictures (section 3.3).

    keys: (N, C3) float32 of length 1; entries: three (N, C, h, w) float16; owners: (N,), the picture of each.
    """

    keys: Tensor
    entries: Sequence[Tensor]
    owners: Tensor

    def nearest(self, deepest: Tensor, exclude: Tensor | None = None) -> Tensor:
        """For each F3 (B, C3, h, w) the number (B,) of the entry with the highest cosine to it.

        exclude: (B,), for each a picture whose entries do not count: in training a window must not find itself.
        """
        similarity = key_of(deepest) @ self.keys.T
        if exclude is not None:
            similarity = similarity.masked_fill(exclude[:, None] == self.owners[None], -torch.inf)
        return similarity.argmax(dim=1)

    def fetch(self, numbers: Tensor) -> list[Tensor]:
        """The three maps (B, C, h, w) float32 of these entries."""
        return [entries[numbers].float() for entries in self.entries]

    def tensors(self) -> dict[str, Tensor]:
        """All of it by names, fit for a file; `of` reads it back."""
        entries = {f"entries{n}": entries for n, entries in enumerate(self.entries)}
        return {"keys": self.keys, "owners": self.owners, **entries}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Bank":
        return cls(tensors["keys"], [tensors[f"entries{n}"] for n in range(3)], tensors["owners"])


def key_of(deepest: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C): the mean over all positions, of length 1."""
    return F.normalize(deepest.mean(dim=(2, 3)), dim=1)


def total_loss(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    image: Tensor,
    picture: Tensor,
    distance: Distance,
    weights: tuple[float, float, float],
) -> Tensor:
    """L = sum_i distance(S_i, F_i) + MSE(picture, image) + (1 - SSIM(picture, image)), each term with its weight
    (section 3.4).

    image, picture: (B, 3, H, W), both in [0, 1]. A weight of 0 leaves its term out; not all may be 0. Raises ValueError
    where a scale's shapes differ.
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
    """(B, *size), at most twice the weights' sum: at each pixel the weighted sum of 1 - cosine over the three scales
    (section 3.5, where all weights are 1)."""
    maps = [w * distance for w, distance in zip(weights, cosine_maps(student, teacher), strict=True)]
    return summed(maps, size)


def _doubling(before: int, after: int) -> tuple[nn.Module, ...]:
    """up(.) of section 3.1: doubles the size by a transposed convolution without overlap."""
    return nn.ConvTranspose2d(before, after, 2, stride=2, bias=False), group_norm(after), nn.ReLU(inplace=True)
