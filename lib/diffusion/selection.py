"""Which of several samples to keep: the one least like the picture that it was painted into, within reason.

Low-fidelity selection (Song et al. 2025): a sample that restores what was there is no defect. It rewards any
difference, garbage too; so real defects say how far is too far.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.core.geometry import RGB, Mask

FILL_RADIUS = 3  # px around a hole from which `without_defect` fills it
RIM = 2  # px around a real mask that show the defect's faint edge, and are filled with it


class Choice(NamedTuple):
    """The index of the chosen sample, and of those that the limit set aside."""

    chosen: int
    beyond: tuple[int, ...]


def choose(scores: Sequence[float], limit: float) -> Choice:
    """The largest score up to the limit, of equal ones the first; where all are beyond it, the smallest.

    A sample that is no picture at all has an infinite score.
    """
    beyond = tuple(number for number, score in enumerate(scores) if score > limit)
    within = [number for number in range(len(scores)) if number not in beyond]
    if not within:
        return Choice(min(range(len(scores)), key=lambda number: scores[number]), beyond)
    return Choice(max(within, key=lambda number: scores[number]), beyond)


def perceptual_map(backbone: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """How differently two pictures look at each place: (B, 1, H, W) >= 0, at most 4.

    first, second: (B, 3, H, W) in [0, 1]. At each level of the backbone the squared distance of features of unit
    length, resized to the pictures' size; their mean over the levels (Zhang et al. 2018, without learned weights).
    """
    with torch.inference_mode():
        features = backbone(torch.cat([first, second]))
        levels = []
        for level in features:
            a, b = F.normalize(level.float(), dim=1).chunk(2)
            distance = (a - b).square().sum(dim=1, keepdim=True)
            levels.append(F.interpolate(distance, first.shape[-2:], mode="bilinear", align_corners=False))
        return torch.stack(levels).mean(dim=0)


def difference(backbone: Any, picture: RGB, normal: RGB, mask: Mask) -> float:
    """How unlike the normal picture a sample looks inside of the mask, >= 0; 0 where the mask is empty.

    picture, normal: (H, W, 3) uint8; mask: (H, W) bool. Outside of the mask both are the normal picture: nothing there
    counts, and no border appears that neither has.
    """
    if not mask.any():
        return 0.0
    composed = np.where(mask[..., None], picture, normal)
    where = next(backbone.parameters()).device
    tensors = (
        torch.from_numpy(np.ascontiguousarray(image)).to(where).permute(2, 0, 1)[None].float() / 255
        for image in (composed, normal)
    )
    return float(perceptual_map(backbone, *tensors)[0, 0].cpu().numpy()[mask].mean())


def without_defect(picture: RGB, mask: Mask) -> RGB:
    """The picture with its defect painted over from what lies around it (Telea 2004): (H, W, 3) uint8."""
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((2 * RIM + 1,) * 2, np.uint8))
    return cv2.inpaint(picture, rim, FILL_RADIUS, cv2.INPAINT_TELEA).astype(np.uint8, copy=False)
