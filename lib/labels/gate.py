"""The quality gate: is a synthetic sample a visible defect such as the real ones of its type, and nothing else?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Box, Mask, around
from lib.core.params import Gate

RING = 5  # px of surroundings that a defect is seen against
WIDE_RING = 24  # px of surroundings whose grain is measured
FINE = 1.0  # px; standard deviation of the Gaussian whose difference is grain
GRADIENT = 3  # px beyond the ring that are cut out with it: dilation and the gradient look at their neighbours
PIECE = 0.1  # of the largest piece's area; smaller ones are specks, as annotations have them, too
BLANK = 0.5  # share of the mask that is pure black or white, above which a filled box is no picture at all
TINY = 1e-6  # CIELAB units, so that nothing is divided by zero where `gate.min_contrast` is 0
RELATIVE = ("strength", "size", "thickness", "likeness", "sharpness", "pieces")  # scores beside real defects

Lab = NDArray[np.floating]  # (3,), CIELAB


@dataclass(frozen=True)
class Traits:
    """What can be measured of any defect, real or synthetic, without a picture that lacks it."""

    area: int  # px of the largest piece: a speck beside it is no measure
    total: int  # px of all pieces
    pieces: int
    thickness: float  # px
    contrast: Lab  # median inside of the mask less that of the ring around it
    sharpness: float  # mean gradient of lightness along the mask's edge less that of the ring, CIELAB units per px
    grain: float  # mean difference of lightness from its blur in the wide ring, CIELAB units


def measure(image: RGB, mask: Mask, unsound: Mask | None = None) -> Traits:
    """The traits of a defect: image (H, W, 3) uint8, mask (H, W) bool, not empty; unsound: (H, W) bool, pixels that are
    no ground, such as those of other defects.

    Where the mask leaves no ring around it, contrast, sharpness and grain are 0.
    """
    near = around(mask, RING + GRADIENT)
    lab, inside = _lab(image[near]), mask[near]
    solid = inside.astype(np.uint8)
    areas = cv2.connectedComponentsWithStats(solid)[2][1:, cv2.CC_STAT_AREA]
    grown, far = (cv2.dilate(solid, np.ones((2 * r + 1, 2 * r + 1))) > 0 for r in (1, 1 + RING))
    if unsound is not None:
        far &= ~unsound[near]
    ring, edge = far & ~grown, grown & ~(cv2.erode(solid, np.ones((3, 3))) > 0)
    contrast, sharpness = np.zeros(3), 0.0
    if ring.any():
        contrast = np.median(lab[inside], axis=0) - np.median(lab[ring], axis=0)
        gradient = np.hypot(*(cv2.Sobel(lab[..., 0], cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (0, 1)))
        sharpness = float(gradient[edge].mean() - gradient[ring].mean())
    pieces = int((areas >= PIECE * areas.max()).sum())
    total, thickest = int(np.count_nonzero(inside)), thickness(inside)
    return Traits(int(areas.max()), total, pieces, thickest, contrast, sharpness, grain(image, mask, unsound))


def grain(image: RGB, mask: Mask, unsound: Mask | None = None) -> float:
    """How fine the surroundings of a defect are structured: 0 where all is smooth, or where there are none."""
    near = around(mask, WIDE_RING + GRADIENT)
    lightness, solid = _lab(image[near])[..., 0], mask[near].astype(np.uint8)
    # The distance to the mask: a square of this size would be dilated for longer.
    ring = cv2.distanceTransform(1 - solid, cv2.DIST_C, 3)
    wide = (ring > 1) & (ring <= WIDE_RING)
    if unsound is not None:
        wide &= ~unsound[near]
    fine = np.abs(lightness - cv2.GaussianBlur(lightness, (0, 0), FINE))[wide]
    return float(fine.mean()) if fine.size else 0.0


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


def beside(traits: Traits, real: Sequence[Traits], gate: Gate) -> dict[str, float]:
    """The scores of a defect that compare with real ones of its type, at least one: those named in RELATIVE.

    strength: contrast in multiples of that which stands out most; size: area in multiples of the smallest; thickness:
    in multiples of the thickest, by which a smudge in place of a scratch is told; likeness: of contrast and colour, as
    above; sharpness: of the edge in multiples of the softest one's, 1 where that has none; pieces: in multiples of
    the number that the one with most has.
    """
    # Where real defects differ from their surroundings by texture alone, what is just visible is the measure.
    strongest = max(gate.min_contrast, TINY, *(float(np.linalg.norm(other.contrast)) for other in real))
    softest = min(other.sharpness for other in real)
    return {
        "strength": float(np.linalg.norm(traits.contrast)) / strongest,
        "size": traits.area / min(other.area for other in real),
        "thickness": traits.thickness / max(other.thickness for other in real),
        "likeness": likeness(traits.contrast, (other.contrast for other in real)),
        "sharpness": traits.sharpness / softest if softest > 0 else 1.0,
        "pieces": traits.pieces / max(other.pieces for other in real),
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


def real_acceptance(real: Sequence[Traits], groups: Sequence[str], gate: Gate) -> list[bool]:
    """Whether each real defect of a type would pass, compared with those of other capture groups: what the ranges are
    worth. Another shot of the same defect would vouch for it.

    groups: of each. Empty with fewer than two groups. Contrast is not asked for: that of a sample is taken to the
    picture without the defect, which nobody has of a real one.
    """
    pairs = [
        (traits, [other for other, group in zip(real, groups, strict=True) if group != own])
        for traits, own in zip(real, groups, strict=True)
    ]
    return [
        not too_small(traits.total, gate) and out_of_range(beside(traits, others, gate), gate) is None
        for traits, others in pairs
        if others
    ]


def too_small(pixels: float, gate: Gate) -> bool:
    """Whether a mask has too few pixels for a defect that one could see."""
    return pixels < gate.min_area


def judge(
    image: RGB,
    normal: RGB | None,
    mask: Mask,
    box: Box,
    gate: Gate,
    real: Sequence[Traits],
    own_background: bool = False,
    painted: RGB | None = None,
    is_drawn: bool = False,
) -> tuple[dict[str, float], bool, str | None]:
    """The scores of one synthetic sample, whether it is accepted, and if not, why.

    image, normal: (H, W, 3) uint8, with and without the defect; normal is None where nobody knows the picture without
    it. mask: (H, W) bool; box: where change is allowed, the whole picture where the background is the generator's own;
    real: the defects of its type, at least one. own_background: whether the generator painted that, too; it must not be
    blurred. painted: as the generator left it, where `image` was trimmed since. is_drawn: whether the box is that of a
    shape which a person drew, without a margin: it may be full. Scores: those of `absolute` and of `beside`, and of an
    own background its `grain`, in multiples of the median of real surroundings; of an empty mask there is nothing to
    measure, and they are 0.
    """
    scores = absolute(image, normal, mask, box, painted)
    if scores["area"]:
        traits = measure(image, mask)
        if normal is None:
            scores["contrast"] = float(np.linalg.norm(traits.contrast))
        scores |= beside(traits, real, gate)
        if own_background:
            # Not the least, as of other traits: one dark picture without grain would let all blurred ones pass.
            usual = float(np.median([other.grain for other in real]))
            scores["grain"] = traits.grain / usual if usual else 1.0
    else:
        scores |= dict.fromkeys((*RELATIVE, *["grain"] * own_background), 0.0)
    reason = _reason(scores | {"fill": 0.0} if is_drawn else scores, gate)
    return scores, reason is None, reason


def absolute(image: RGB, normal: RGB | None, mask: Mask, box: Box, painted: RGB | None = None) -> dict[str, float]:
    """The scores of a defect for which real ones are not asked.

    contrast: mean CIELAB distance between image and normal inside the mask (`judge` takes that to the ring around the
    mask where there is no normal); area: of the mask, px; fill: the mask's share of the box; outside: pixels outside
    of the box that differ from the normal, of which there are none without one, in the picture as it was painted;
    clipped: share of the mask that is pure black or pure white, and is not so in the normal.
    """
    allowed = slice(max(box[1], 0), max(box[3], 0)), slice(max(box[0], 0), max(box[2], 0))
    area = int(np.count_nonzero(mask))
    scores = {"contrast": 0.0, "area": float(area), "fill": area / max(mask[allowed].size, 1)}
    scores |= {"outside": 0.0, "clipped": 0.0}
    if normal is not None:
        scores["outside"] = float(_pixels_changed(image if painted is None else painted, normal, allowed))
    if area:
        near = around(mask)  # a defect is small beside its picture: all that follows looks at its own pixels alone
        inside, defect = mask[near], image[near]
        pure = (defect == defect[..., :1]).all(axis=2) & np.isin(defect[..., 0], (0, 255))
        if normal is not None:
            pure &= (defect != normal[near]).any(axis=2)
            scores["contrast"] = float(np.linalg.norm(_lab(defect) - _lab(normal[near]), axis=2)[inside].mean())
        scores["clipped"] = float(pure[inside].mean())
    return scores


def _reason(scores: dict[str, float], gate: Gate) -> str | None:
    """Why a sample with these scores is refused; None if it is not."""
    if scores["outside"]:
        return "changed outside of the box"
    if scores["contrast"] < gate.min_contrast or not scores["area"]:
        return "no visible change"
    if too_small(scores["area"], gate):
        return "fewer pixels than gate.min_area"
    if scores["fill"] > gate.max_fill:
        return "blank output" if scores["clipped"] > BLANK else "the whole box changed"
    if scores.get("grain", 1.0) * gate.outlier < 1:
        return "surroundings softer than those of real defects"
    return out_of_range(scores, gate)


def _pixels_changed(image: RGB, normal: RGB, but: tuple[slice, slice]) -> int:
    """How many pixels differ, those in the rows and columns `but` not counted."""
    change = cv2.absdiff(image, normal)
    change[but] = 0
    return int(np.count_nonzero(change.any(axis=2))) if change.any() else 0


def _lab(image: RGB) -> NDArray[np.float32]:
    """CIELAB, (H, W, 3)."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)
