"""The networks and scores of dual-space purification: reconstructed features, reconstructed picture, and differences.

"Collaborative Purification in Dual Spaces for Industrial Anomaly Detection via Hierarchical Reconstruction" (PAGMFR)
describes the parts and publishes no code: MFRM reconstructs the features of the clean picture, MFFM fuses them with
those of the anomalous one, a small MLP scores each pixel. Sizes and connections are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.vision.reconstruction import convolution, cosine_maps, ssim

Branches = Literal["both", "features", "picture"]

PRIOR = 0.02  # probability of a defect before the first step (Lin et al. 2017, section 4.1)
HIDDEN = 16  # channels of the MLP's two hidden layers
EPSILON = 1e-6  # under square roots, whose slope at zero is infinite
# sRGB to linear light to XYZ, relative to the white point D65 (IEC 61966-2-1).
TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.950456, 1.0, 1.088754)


def cielab(rgb: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIELAB, L in [0, 100] (CIE 15:2004)."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = torch.tensor(TO_XYZ, device=rgb.device) / torch.tensor(WHITE, device=rgb.device)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    limit = (6 / 29) ** 3
    f = torch.where(xyz > limit, xyz.clamp(min=limit) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def colour_difference(a: Tensor, b: Tensor) -> Tensor:
    """Delta E of 1976 between pictures (B, 3, H, W) in [0, 1]: (B, H, W), 100 from black to white."""
    squares = (cielab(a) - cielab(b)).square().sum(dim=1)
    return (squares + EPSILON).sqrt() - EPSILON**0.5


def structure_difference(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM, the mean of the channels: (B, H, W) in [0, 2], 0 where the pictures are the same."""
    return 1 - ssim(a, b).mean(dim=1)


def focal_loss(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """FL = -(1 - p_t)^gamma log p_t (Lin et al. 2017, eq. 4), averaged over pixels; cross entropy for gamma 0."""
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probability = logits.sigmoid()
    missed = torch.where(masks > 0.5, 1 - probability, probability)
    # At 0 the slope of the power is infinite for gamma below 1, and NaN once it is multiplied with the entropy's 0.
    missed = missed.clamp(min=torch.finfo(missed.dtype).tiny)
    return (missed**gamma * entropy).mean()


@dataclass(frozen=True)
class Purified:
    """The reconstruction of the clean picture: its features at every scale, and itself, (B, 3, H, W) in (0, 1)."""

    features: list[Tensor]
    picture: Tensor


class Reconstruction(nn.Module):
    """MFRM: the features of an anomalous picture -> those of the clean one, and the clean picture.

    All scales are pooled to the size of the deepest and pass a bottleneck there. There are no skip connections, which
    would pass the anomaly on. channels: of the maps, from fine to coarse, each half the size of the one before.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        deep = width * 2 ** (len(channels) - 1)
        self.squeeze = nn.ModuleList(nn.Conv2d(channel, width, 1) for channel in channels)
        self.bottleneck = nn.Sequential(*convolution(width * len(channels), deep), *convolution(deep, deep))
        inner = [width * 2**level for level in range(len(channels))]
        self.stages = nn.ModuleList(
            nn.Sequential(*convolution(before, after))
            for before, after in zip([deep, *inner[:0:-1]], inner[::-1], strict=True)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(width_of, channel, 3, padding=1)
            for width_of, channel in zip(inner[::-1], channels[::-1], strict=True)
        )
        self.to_picture = nn.Sequential(*convolution(width, width), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, features: Sequence[Tensor], size: Sequence[int]) -> Purified:
        """features: (B, C, h, w) each; size: (H, W) of the picture."""
        deepest = features[-1].shape[-2:]
        squeezed = [
            F.avg_pool2d(squeeze(one), [int(have // want) for have, want in zip(one.shape[-2:], deepest, strict=True)])
            for squeeze, one in zip(self.squeeze, features, strict=True)
        ]
        x = self.bottleneck(torch.cat(squeezed, dim=1))
        rebuilt = []
        for stage, head, target in zip(self.stages, self.heads, reversed(features), strict=True):
            if x.shape[-2:] != target.shape[-2:]:
                x = F.interpolate(x, target.shape[-2:], mode="bilinear", align_corners=False)
            x = stage(x)
            rebuilt.append(head(x))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        picture = F.interpolate(self.to_picture(x), list(size), mode="bilinear", align_corners=False)
        return Purified(rebuilt[::-1], picture.sigmoid())


class Fusion(nn.Module):
    """MFFM of one scale: anomalous and reconstructed features (B, C, h, w) -> (B, width, h, w).

    Concatenation, a 1x1 convolution, and channel attention from the channels' means (Hu et al. 2018).
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.join = nn.Sequential(*convolution(2 * channels, width, size=1))
        self.gate = nn.Linear(width, width)

    def forward(self, disturbed: Tensor, rebuilt: Tensor) -> Tensor:
        x = self.join(torch.cat([disturbed, rebuilt], dim=1))
        return x * self.gate(x.mean(dim=(2, 3))).sigmoid()[..., None, None]


class Purifier(nn.Module):
    """A picture and its features -> logits (B, H, W), and the reconstruction of the clean picture.

    For each pixel an MLP gets the cosine distance at every scale, the fused features, and the differences in colour and
    in structure. Its first layer is applied at each scale before the resize to the picture's size: both are linear, so
    that the order affects only the time. branches: "features" or "picture" leaves out the other space.
    """

    def __init__(self, channels: Sequence[int], width: int, branches: Branches = "both") -> None:
        super().__init__()
        self.branches = branches
        self.reconstruction = Reconstruction(channels, width)
        self.fusion = nn.ModuleList(Fusion(channel, width) for channel in channels)
        self.of_fused = nn.ModuleList(nn.Conv2d(width, HIDDEN, 1, bias=False) for _ in channels)
        self.of_distances = nn.ModuleList(nn.Conv2d(1, HIDDEN, 1, bias=False) for _ in channels)
        self.of_picture = nn.Conv2d(2, HIDDEN, 1)
        last = nn.Conv2d(HIDDEN, 1, 1)
        with torch.no_grad():
            last.bias.fill_(-math.log((1 - PRIOR) / PRIOR))  # type: ignore[union-attr]
        self.rest = nn.Sequential(nn.ReLU(), nn.Conv2d(HIDDEN, HIDDEN, 1), nn.ReLU(), last)

    def forward(self, picture: Tensor, features: Sequence[Tensor]) -> tuple[Tensor, Purified]:
        """picture: (B, 3, H, W) in [0, 1]; features: (B, C, h, w) each, of that picture."""
        size = list(picture.shape[-2:])
        purified = self.reconstruction(features, size)
        return self.score(picture, features, purified), purified

    def score(self, picture: Tensor, features: Sequence[Tensor], purified: Purified) -> Tensor:
        """(B, H, W) logits from both spaces."""
        maps = torch.stack(
            [
                colour_difference(picture, purified.picture) / 100,
                structure_difference(picture, purified.picture),
            ],
            dim=1,
        )
        hidden = self.of_picture(maps if self.branches != "features" else torch.zeros_like(maps))
        if self.branches != "picture":
            distances = cosine_maps(features, purified.features)
            for n, (feature, rebuilt) in enumerate(zip(features, purified.features, strict=True)):
                part = self.of_fused[n](self.fusion[n](feature, rebuilt)) + self.of_distances[n](distances[n][:, None])
                hidden = hidden + F.interpolate(part, picture.shape[-2:], mode="bilinear", align_corners=False)
        return self.rest(hidden)[:, 0]
