"""The parts in a picture, each with its own coordinate frame: centre, size and rotation.

The rotation of one part relative to another is the one under which they look alike, in outline and surface, in polar
coordinates about their centres. A symmetric part has several equivalent rotations (six for a plain hexagonal nut), a
round one all; none of them is preferred.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import Box, Mask, resize
from lib.placement.surroundings import Features, Points

MIN_PART = 0.1  # least area of a part, as a share of the largest
ANGLES, RADII = 180, 24  # size of the polar view of a part
REACH = 2.0  # radius of that view, in sizes of the part
OVERSAMPLING = 2  # of the view, before it is averaged
SOFT = 1.5  # px at the features' size; blur of the view
FLAGS = cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS
OUTLINE = 4.0  # weight of a pixel that is part in only one view, relative to a squared difference of one colour scale
SIZE = 4.0  # weight of the squared logarithm of the ratio of two sizes
# Rotations count as equivalent to the best one if their cost is larger by at most this share plus this.
EQUAL_SHARE, EQUAL = 0.1, 0.007


@dataclass(frozen=True)
class Pose:
    """A similarity transform from one picture to another: rotates, scales, and maps centre to centre.

    Or several of them: all fields except `source` may have leading dimensions (...).
    """

    source: Points  # (2,) px
    target: Points  # (..., 2) px
    turn: NDArray[np.float64]  # (...) radians, from the x axis towards the y axis
    scale: NDArray[np.float64]  # (...)

    def __call__(self, points: Points) -> Points:
        """Points (..., 2) of the target's picture for points (..., 2), or one point, of the source's."""
        turned = ((np.asarray(points) - self.source)[..., None, :] @ turning(self.turn))[..., 0, :]
        return np.asarray(np.asarray(self.scale)[..., None] * turned + self.target)


def turning(angle: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix (..., 2, 2) that rotates row vectors (x, y) by an angle in radians, from the x axis to the y axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)], axis=-2)


@dataclass(frozen=True)
class Part:
    """One part of a picture, with its polar view about the centre, out to REACH sizes."""

    centre: Points  # (2,) px
    size: float  # px: the square root of its area; its mean width where it runs from border to border
    axis: float | None  # radians: the direction in which it runs from border to border
    length: float  # px, along that axis
    mask: Mask  # (h, w) on the grid of its picture's features
    view: NDArray[np.float32]  # (4, ANGLES, RADII): share in [0, 1] that is part; CIELAB, times the share that is inner
    inner: NDArray[np.float32]  # (ANGLES, RADII) share that is part and not at its edge
    known: NDArray[np.float32]  # (ANGLES, RADII) share in [0, 1] that is neither hidden nor beyond the border

    @property
    def nbytes(self) -> int:
        return self.mask.nbytes + self.view.nbytes + self.inner.nbytes + self.known.nbytes


def parts_of(foreground: Mask, picture: Features) -> list[Part]:
    """The parts of a picture, largest first: connected components of its foreground (H, W) on the features' grid.

    Empty if all is foreground, or nothing is.
    """
    rows, columns = picture.known.shape
    inside = resize(foreground, columns, rows)
    if inside.all() or not inside.any():
        return []
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = [int(one) for one in np.argsort(-areas, kind="stable") if areas[one] >= MIN_PART * areas.max()]
    return [_part(labels == 1 + number, picture) for number in order]


def _part(mask: Mask, picture: Features) -> Part:
    y, x = np.nonzero(mask)
    centre, step = np.array([x.mean() + 0.5, y.mean() + 0.5]), float(np.mean(picture.step))
    axis, length, size = None, 0.0, float(np.sqrt(len(x)))
    ends = _ends(mask)
    if ends is not None:
        (x0, y0), (x1, y1) = ends
        axis, length = float(np.arctan2(y1 - y0, x1 - x0)), float(np.hypot(x1 - x0, y1 - y0))
        size = len(x) / max(length, 1)
    shape, radius = (RADII * OVERSAMPLING, ANGLES * OVERSAMPLING), REACH * size
    # warpPolar puts the first pixel's middle at 0.
    place = (float(centre[0] - 0.5), float(centre[1] - 0.5))
    # Colours are taken away from the edge, where they mix with the background. All is slightly blurred, so that half a
    # step of the angle does not cost more than a small mark.
    inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1)
    shares = cv2.GaussianBlur(np.dstack([mask, inner]).astype(np.float32), (0, 0), SOFT)
    colours = cv2.GaussianBlur(inner[..., None] * picture.maps[..., :3], (0, 0), SOFT)
    layers = [np.dstack([shares, picture.known.astype(np.float32)]), colours]
    polar = [cv2.warpPolar(one, shape, place, radius, FLAGS) for one in layers]
    polar = [cv2.resize(one, (RADII, ANGLES), interpolation=cv2.INTER_AREA) for one in polar]
    seen, lab = (np.asarray(one, np.float32) for one in polar)
    return Part(
        centre=centre * picture.step,
        size=size * step,
        axis=axis,
        length=length * step,
        mask=mask,
        view=np.moveaxis(np.dstack([seen[..., 0], lab]), 2, 0),
        inner=seen[..., 1],
        known=seen[..., 2],
    )


def _ends(mask: Mask) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The middles (x, y) of a mask's first and last row, or column, where it runs from border to border, else None."""
    height, width = mask.shape
    if mask[0].any() and mask[-1].any():
        return (float(np.flatnonzero(mask[0]).mean()), 0.0), (float(np.flatnonzero(mask[-1]).mean()), height - 1.0)
    if mask[:, 0].any() and mask[:, -1].any():
        first, last = float(np.flatnonzero(mask[:, 0]).mean()), float(np.flatnonzero(mask[:, -1]).mean())
        return (0.0, first), (width - 1.0, last)
    return None


def part_at(parts: Sequence[Part], box: Box, picture: Features) -> Part:
    """The part that covers most of a box, or, if none does, the one with the nearest centre."""
    x0, y0, x1, y1 = (value / picture.step[axis % 2] for axis, value in enumerate(box))
    rows, columns = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)

    def nearness(part: Part) -> tuple[float, float]:
        return float(part.mask[rows, columns].sum()), -float(np.hypot(*np.subtract(part.centre, middle)))

    return max(parts, key=nearness)


def poses(source: Part, targets: Sequence[Part], scale: NDArray[np.float32]) -> tuple[NDArray[np.int64], Pose]:
    """The indices (N,) of target parts, and the poses (N,) of the source on them that fit as well as the best, best
    first.

    scale: (3,) CIELAB units by which colours vary on the parts. For parts that run from border to border, the axes are
    aligned, in either direction.
    """
    turns, costs = [], []
    for target in targets:
        if source.axis is not None and target.axis is not None:
            turns.append(target.axis - source.axis + np.array([0.0, np.pi]))
            costs.append(np.zeros(2))
        else:
            turns.append(2 * np.pi * np.arange(ANGLES) / ANGLES)
            costs.append(turn_costs(source, target, scale))
    ratios = [target.size / source.size for target in targets]
    cost = np.concatenate([one + SIZE * np.log(ratio) ** 2 for one, ratio in zip(costs, ratios, strict=True)])
    order = np.argsort(cost, kind="stable")
    fits = order[cost[order] <= cost.min() * (1 + EQUAL_SHARE) + EQUAL]
    number = np.repeat(np.arange(len(targets)), [len(one) for one in costs])[fits]
    centres = np.stack([target.centre for target in targets])
    return number, Pose(source.centre, centres[number], np.concatenate(turns)[fits], np.array(ratios)[number])


def turn_costs(source: Part, target: Part, scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cost of rotating the source by 2 pi k / ANGLES onto the target: (ANGLES,), a mean over the source's area.

    The weighted squared difference of the two views for every rotation, as correlations by FFT along the angle.
    """
    weights = source.known * (np.arange(RADII) + 0.5)
    channel = np.array([OUTLINE, *(1 / (3 * scale**2))])
    area = max(float((weights * source.view[0]).sum()), 1e-6)
    colour = (weights * source.view[1:]).sum(axis=(1, 2)) / max(float((weights * source.inner).sum()), 1e-6)
    middle = np.array([0.0, *colour])[:, None, None]  # the mean colour is subtracted, so that the outline counts once
    one, other = (part.view - middle * part.inner for part in (source, target))

    def correlated(left: NDArray, right: NDArray) -> NDArray[np.float64]:
        spectrum = np.conj(np.fft.rfft(left, axis=-2)) * np.fft.rfft(right, axis=-2)
        return np.fft.irfft(spectrum.sum(axis=-1), n=ANGLES, axis=-1)

    costs = (weights * one**2).sum(axis=(1, 2))[:, None] - 2 * correlated(weights * one, other)
    costs = costs + correlated(np.broadcast_to(weights, other.shape), other**2)
    return np.asarray(np.maximum((channel[:, None] * costs).sum(axis=0) / area, 0))
