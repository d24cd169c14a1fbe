"""What detectors that reconstruct the good picture share: losses, distances and a convolution block."""

from collections.abc import Sequence

import torch
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
    rows, columns = (_means(extent, a) for extent in a.shape[-2:])
    mean_a, mean_b, squares_a, squares_b, products = rows @ torch.stack([a, b, a * a, b * b, a * b]) @ columns.T
    variance_a, variance_b = squares_a - mean_a**2, squares_b - mean_b**2
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = 2 * (products - mean_a * mean_b) + C2
    return luminance * structure / (variance_a.clamp(min=0) + variance_b.clamp(min=0) + C2)


def _means(extent: int, like: Tensor) -> Tensor:
    """The matrix (extent, extent) that averages each pixel of an axis with its neighbours in the window.

    In windows of 128 px the two products take a quarter of the time of average pooling, forth and back; from 512 px on
    they are no faster.
    """
    places = torch.arange(extent, device=like.device)
    near = ((places[:, None] - places).abs() <= WINDOW // 2).to(like.dtype)
    return near / near.sum(dim=1, keepdim=True)


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
