"""The quality gate: is a synthetic sample a visible defect such as the real ones of its type, and nothing else?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Box, Mask, box_mask
from lib.core.params import Gate

RING = 5  # px of surroundings that a defect is seen against
PIECE = 0.1  # of the largest piece's area; smaller ones are specks, as annotations have them, too
RELATIVE = ("strength", "size", "thickness", "likeness", "sharpness", "pieces")  # scores beside real defects

Lab = NDArray[np.floating]  # (3,), CIELAB


@dataclass(frozen=True)
class Traits:
    """What can be measured of any defect, real or synthetic, without a picture that lacks it."""

    area: int  # px of the largest piece: a speck beside it is no measure
    pieces: int
    thickness: float  # px
    contrast: Lab  # median inside of the mask less that of the ring around it
    sharpness: float  # mean gradient of lightness along the mask's edge less that of the ring, CIELAB units per px


def measure(image: RGB, mask: Mask) -> Traits:
    """The traits of a defect: image (H, W, 3) uint8, mask (H, W) bool, not empty.

    Where the mask leaves no ring around it, contrast and sharpness are 0.
    """
    margin = RING + 3  # of which the last pixel is for the gradient
    near = tuple(slice(max(int(i.min()) - margin, 0), int(i.max()) + margin + 1) for i in np.nonzero(mask))
    lab, inside = _lab(image[near]), mask[near]
    solid = inside.astype(np.uint8)
    areas = cv2.connectedComponentsWithStats(solid)[2][1:, cv2.CC_STAT_AREA]
    grown, far = (cv2.dilate(solid, np.ones((2 * r + 1, 2 * r + 1))) > 0 for r in (1, 1 + RING))
    ring, edge = far & ~grown, grown & ~(cv2.erode(solid, np.ones((3, 3))) > 0)
    contrast, sharpness = np.zeros(3), 0.0
    if ring.any():
        contrast = np.median(lab[inside], axis=0) - np.median(lab[ring], axis=0)
        gradient = np.hypot(*(cv2.Sobel(lab[..., 0], cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (0, 1)))
        sharpness = float(gradient[edge].mean() - gradient[ring].mean())
    pieces = int((areas >= PIECE * areas.max()).sum())
    return Traits(int(areas.max()), pieces, thickness(inside), contrast, sharpness)


def thickness(mask: Mask) -> float:
    """Diameter in px of the largest disc that fits into the mask (H, W) bool: of a line its width, within a pixel,
    since it ends at the middle of the first pixels outside. 0 when empty."""
    return 2 * float(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5).max())


def likeness(contrast: Lab, real: Iterable[Lab]) -> float:
    """How far a contrast goes towards that of the real defect which it resembles most, at most 1.

    1: as far as it, or further; 0: not at all, as what nobody sees; below 0: the other way, as a bright patch where
    all real defects are dark. It is the projection on that defect's contrast, in multiples of it. A real defect
    without any contrast is resembled by everything.
    """
    squares = ((other, float(other @ other)) for other in real)
    return min(1.0, max(float(contrast @ other) / square if square else 1.0 for other, square in squares))


def beside(found: Traits, known: Sequence[Traits], gate: Gate) -> dict[str, float]:
    """The scores of a defect that compare with real ones of its type, at least one: those named in RELATIVE.

    strength: contrast in multiples of that which stands out most; size: area in multiples of the smallest; thickness:
    in multiples of the thickest, by which a smudge in place of a scratch is told; likeness: of contrast and colour, as
    above; sharpness: of the edge in multiples of the softest one's, 1 where that has none; pieces: in multiples of
    the number that the one with most has.
    """
    # Where real defects differ from their surroundings by texture alone, what is just visible is the measure.
    strongest = max(gate.min_contrast, 1e-6, *(float(np.linalg.norm(real.contrast)) for real in known))
    softest = min(real.sharpness for real in known)
    return {
        "strength": float(np.linalg.norm(found.contrast)) / strongest,
        "size": found.area / min(real.area for real in known),
        "thickness": found.thickness / max(real.thickness for real in known),
        "likeness": likeness(found.contrast, (real.contrast for real in known)),
        "sharpness": found.sharpness / softest if softest > 0 else 1.0,
        "pieces": found.pieces / max(real.pieces for real in known),
    }


def out_of_range(scores: dict[str, float], gate: Gate) -> str | None:
    """Why a defect with these scores of RELATIVE is unlike real ones of its type; None if it is not."""
    if scores["strength"] > gate.outlier:
        return "stronger than real defects"
    if scores["size"] * gate.outlier < 1:
        return "smaller than real defects"
    if scores["thickness"] > gate.max_thickness:
        return "thicker than real defects"
    if scores["likeness"] * gate.outlier < 1:
        return "fainter than real defects, or of another colour"
    if scores["sharpness"] * gate.outlier < 1:
        return "softer than real defects"
    if scores["pieces"] > gate.outlier:
        return "in more pieces than real defects"
    return None


def real_acceptance(known: Sequence[Traits], gate: Gate) -> list[bool]:
    """Whether each real defect of a type would pass, compared with the others: what the ranges are worth.

    Empty with fewer than two.
    """
    pairs = [(found, [*known[:n], *known[n + 1 :]]) for n, found in enumerate(known)]
    return [out_of_range(beside(found, others, gate), gate) is None for found, others in pairs if others]


def judge(
    image: RGB, normal: RGB, mask: Mask, box: Box, gate: Gate, known: Sequence[Traits]
) -> tuple[dict[str, float], bool, str | None]:
    """The scores of one synthetic sample, whether it is accepted, and if not, why.

    image, normal: (H, W, 3) uint8, with and without the defect; mask: (H, W) bool, as measured; known: the real defects
    of its type, at least one. Scores: contrast: mean CIELAB distance between image and normal inside the mask; area: of
    the mask, px; fill: the mask's share of the box; outside: pixels outside of the box that differ from `normal`;
    clipped: share of the mask that became pure black or pure white; and those of `beside`. Of an empty mask there is
    nothing to measure, and they are 0.
    """
    inside = box_mask(box, normal.shape[1], normal.shape[0])
    area = int(mask.sum())
    pure = (image == image[..., :1]).all(axis=2) & np.isin(image[..., 0], (0, 255)) & (image != normal).any(axis=2)
    scores = {
        "contrast": float(np.linalg.norm(_lab(image) - _lab(normal), axis=2)[mask].mean()) if area else 0.0,
        "area": float(area),
        "fill": area / max(int(inside.sum()), 1),
        "outside": float(((image != normal).any(axis=2) & ~inside).sum()),
        "clipped": float(pure[mask].mean()) if area else 0.0,
        **(beside(measure(image, mask), known, gate) if area else dict.fromkeys(RELATIVE, 0.0)),
    }
    if scores["outside"]:
        reason: str | None = "changed outside of the box"
    elif scores["contrast"] < gate.min_contrast or area < gate.min_area:
        reason = "no visible change"
    elif scores["fill"] > gate.max_fill:
        reason = "blank output" if scores["clipped"] > 0.5 else "the whole box changed"
    else:
        reason = out_of_range(scores, gate)
    return scores, reason is None, reason


def _lab(image: RGB) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
