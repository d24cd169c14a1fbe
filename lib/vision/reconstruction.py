"""What detectors that reconstruct the good picture share: losses, distances and a convolution block."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 11  # px, of SSIM
C1, C2 = 0.01**2, 0.03**2  # of Wang et al. 2004, for values from 0 to 1


def convolution(before: int, after: int, size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    """A convolution with group norm and ReLU: what a window gives does not depend on the others in its batch."""
    layer = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    return layer, group_norm(after), nn.ReLU(inplace=True)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 8 groups, or fewer if they do not divide the channels."""
    return nn.GroupNorm(next(groups for groups in (8, 4, 2, 1) if channels % groups == 0), channels)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of every pixel, with a uniform window: (B, C, H, W) in [-1, 1].

    a, b: (B, C, H, W) in [0, 1]; channels are compared separately. At the border the window is clipped.
    """

    def mean(x: Tensor) -> Tensor:
        """By rows, then by columns: for each pixel 22 additions instead of 121."""
        rows = F.avg_pool2d(x, (1, WINDOW), stride=1, padding=(0, WINDOW // 2), count_include_pad=False)
        return F.avg_pool2d(rows, (WINDOW, 1), stride=1, padding=(WINDOW // 2, 0), count_include_pad=False)

    a, b = a.contiguous(), b.contiguous()  # with the channels last, pooling takes twice as long
    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance * (2 * covariance + C2) / (variance_a.clamp(min=0) + variance_b.clamp(min=0) + C2)


def cosine_maps(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[Tensor]:
    """1 - cosine similarity of the features at every position, for each scale: (B, h, w) in [0, 2].

    Raises ValueError if two maps differ in shape, which broadcasting would hide.
    """
    maps = []
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape:
            raise ValueError(f"features of shape {tuple(one.shape)} and {tuple(other.shape)} cannot be compared")
        maps.append(1 - F.cosine_similarity(one, other, dim=1, eps=1e-6))
    return maps
