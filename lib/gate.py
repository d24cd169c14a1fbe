"""The quality gate: is a synthetic sample a visible defect of believable strength, and nothing else?"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from lib.core.images import RGB, Mask, box_mask
from lib.core.params import Gate
from lib.core.records import Box

RING = 5  # px of surroundings that a defect is seen against


@dataclass(frozen=True)
class RealRange:
    """How far the real defects of one type go."""

    contrast: float  # of the one that stands out most, CIELAB units
    area: int  # of the smallest one, px
    thickness: float  # of the thickest one, px


def real_range(images: Iterable[RGB], masks: Iterable[Mask], areas: Iterable[int]) -> RealRange:
    """The range of real defects: of training pictures (H, W, 3) uint8, their masks (H, W) bool, and the area in px of
    the largest defect of each, since a speck beside it is no measure.

    Raises ValueError when there is not one real defect to compare with.
    """
    known = [
        (ring_contrast(image, mask), thickness(mask)) for image, mask in zip(images, masks, strict=True) if mask.any()
    ]
    if not known:
        raise ValueError("the gate compares with real defects, and the training part has none with a mask")
    contrasts, thicknesses = zip(*known, strict=True)
    return RealRange(max(contrasts), min(areas), max(thicknesses))


def thickness(mask: Mask) -> float:
    """Diameter in px of the largest disc that fits into the mask (H, W) bool: of a line its width, within a pixel,
    since it ends at the middle of the first pixels outside. 0 when empty."""
    return 2 * float(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5).max())


def ring_contrast(image: RGB, mask: Mask) -> float:
    """CIELAB distance between the median colour inside the mask and that of the ring around it; 0 without a ring.

    It needs no picture without the defect, so it means the same for real and for synthetic defects.
    """
    near, far = (cv2.dilate(mask.astype(np.uint8), np.ones((2 * r + 1, 2 * r + 1))) > 0 for r in (1, 1 + RING))
    ring = far & ~near
    if not mask.any() or not ring.any():
        return 0.0
    lab = _lab(image)
    return float(np.linalg.norm(np.median(lab[mask], axis=0) - np.median(lab[ring], axis=0)))


def judge(
    image: RGB, normal: RGB, mask: Mask, box: Box, gate: Gate, real: RealRange
) -> tuple[dict[str, float], bool, str | None]:
    """The scores of one synthetic sample, whether it is accepted, and if not, why.

    image, normal: (H, W, 3) uint8, with and without the defect; mask: (H, W) bool, as measured. Scores:
    contrast: mean CIELAB distance between image and normal inside the mask; area: of the mask, px; fill: the mask's
    share of the box; outside: pixels outside of the box that differ from `normal`; clipped: share of the mask that
    became pure black or pure white; strength: contrast against the ring around the mask, in multiples of the
    strongest real defect's; size: area in multiples of the smallest real defect's; thickness: in multiples of the
    thickest real defect's, by which a smudge in place of a scratch is told.
    """
    inside = box_mask(box, normal.shape[1], normal.shape[0])
    area = int(mask.sum())
    pure = (image == image[..., :1]).all(axis=2) & np.isin(image[..., 0], (0, 255)) & (image != normal).any(axis=2)
    # Where real defects differ from their surroundings by texture alone, what is just visible is the measure.
    scale = max(real.contrast, gate.min_contrast, 1e-6)
    scores = {
        "contrast": float(np.linalg.norm(_lab(image) - _lab(normal), axis=2)[mask].mean()) if area else 0.0,
        "area": float(area),
        "fill": area / max(int(inside.sum()), 1),
        "outside": float(((image != normal).any(axis=2) & ~inside).sum()),
        "clipped": float(pure[mask].mean()) if area else 0.0,
        "strength": ring_contrast(image, mask) / scale,
        "size": area / real.area,
        "thickness": thickness(mask) / real.thickness,
    }
    reason = None
    if scores["outside"]:
        reason = "changed outside of the box"
    elif scores["contrast"] < gate.min_contrast or area < gate.min_area:
        reason = "no visible change"
    elif scores["fill"] > gate.max_fill:
        reason = "blank output" if scores["clipped"] > 0.5 else "the whole box changed"
    elif scores["strength"] > gate.outlier or scores["size"] * gate.outlier < 1:
        reason = "beyond the range of real defects"
    elif scores["thickness"] > gate.max_thickness:
        reason = "thicker than real defects"
    return scores, reason is None, reason


def _lab(image: RGB) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
