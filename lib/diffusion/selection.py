"""Low-fidelity selection (Song et al. 2025): of several samples keep the one that differs most from the good picture.

A sample that restores the good picture shows no defect. Since any difference counts, also a failed sample, real defects
give an upper limit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.core.geometry import RGB, Mask, resize

FILL_RADIUS = 3  # px around a hole that `without_defect` takes into account
COMPARED = 2  # times the base's resolution, up to which pictures are compared: what it paints has no finer detail
RIM = 2  # px around a real mask that still show the defect's faint edge, and are filled, too


class Choice(NamedTuple):
    """The index of the chosen sample, and the indices of those above the limit."""

    chosen: int
    beyond: tuple[int, ...]


def choose(scores: Sequence[float], limit: float) -> Choice:
    """The largest score up to the limit, the first of equal ones; if all are above the limit, the smallest.

    A sample that is not finite has an infinite score.
    """
    beyond = tuple(number for number, score in enumerate(scores) if score > limit)
    within = [number for number in range(len(scores)) if number not in beyond]
    if not within:
        return Choice(min(range(len(scores)), key=lambda number: scores[number]), beyond)
    return Choice(max(within, key=lambda number: scores[number]), beyond)


def perceptual_map(backbone: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """The perceptual distance of two pictures at each pixel: (B, 1, H, W) in [0, 4].

    first, second: (B, 3, H, W) in [0, 1]. The squared distance of the normalised features at each level of the
    backbone, resized to the pictures' size, averaged over the levels (Zhang et al. 2018, without learned weights).
    """
    with torch.inference_mode():
        features = backbone(torch.cat([first, second]))
        levels = []
        for level in features:
            a, b = F.normalize(level.float(), dim=1).chunk(2)
            distance = (a - b).square().sum(dim=1, keepdim=True)
            levels.append(F.interpolate(distance, first.shape[-2:], mode="bilinear", align_corners=False))
        return torch.stack(levels).mean(dim=0)


def difference(backbone: Any, picture: RGB, normal: RGB, mask: Mask, resolution: int) -> float:
    """The mean perceptual distance of a sample to the normal picture inside the mask, >= 0; 0 for an empty mask.

    picture, normal: (H, W, 3) uint8; mask: (H, W) bool. Outside the mask the sample is replaced by the normal picture,
    so that nothing there counts. resolution: of the base that painted it, px; larger pictures are shrunk to COMPARED
    times that.
    """
    if not mask.any():
        return 0.0
    composed = np.where(mask[..., None], picture, normal)
    if (scale := COMPARED * resolution / max(mask.shape)) < 1:
        size = [max(round(scale * extent), 1) for extent in mask.shape[::-1]]
        composed, normal = resize(composed, *size), resize(normal, *size)
        mask = resize(mask.astype(np.float32), *size) > 0  # any part of it, so that no line is lost
    where = next(backbone.parameters()).device
    tensors = (
        torch.from_numpy(np.ascontiguousarray(image)).to(where).permute(2, 0, 1)[None].float() / 255
        for image in (composed, normal)
    )
    return float(perceptual_map(backbone, *tensors)[0, 0].cpu().numpy()[mask].mean())


def without_defect(picture: RGB, mask: Mask) -> RGB:
    """The picture with its defect inpainted from its surroundings (Telea 2004): (H, W, 3) uint8."""
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((2 * RIM + 1,) * 2, np.uint8))
    return cv2.inpaint(picture, rim, FILL_RADIUS, cv2.INPAINT_TELEA).astype(np.uint8, copy=False)
