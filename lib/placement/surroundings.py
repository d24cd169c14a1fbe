"""Features of a place: colour, contrast and distance to the object's edge, at points on rings around a box.

Defects occur at typical places: pits on the flank of a groove, chips at an edge. The surroundings of a real defect,
without the defect itself, describe that place; the same points around a box on a good picture show how similar it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Box, Mask, resize
from lib.placement.foreground import cielab

Points = NDArray[np.float64]  # (..., 2), x and y in px from the picture's upper left corner

WORKING_SIDE = 160  # px of the longer side of the feature grid
SMOOTHING = 1.0  # px on that grid, of colours
NEIGHBOURHOOD = 2.5  # px on that grid, in which contrast is measured
CHANNELS = ("lightness", "green to red", "blue to yellow", "contrast", "depth", "beyond")
FLOORS = (2.0, 2.0, 2.0, 1.0, 0.5, 1.0)  # least scale of each channel: camera noise in CIELAB units; shares
DEEP = 0.25  # distance from the edge at which the depth is 1, in sizes of the object
ANGLES = 12  # points on a ring
RINGS = (0.3, 1.0, 3.0)  # distances of the rings from the box, in units of half its longer side
MIN_REACH = 0.08  # least value of that unit, as a share of the picture's shorter side
GRID = 16  # cells per side of the coarse grid on which lighting is fitted
MOST = 3.0  # scales; differences of a point are clipped to it, as for reflections


@dataclass(frozen=True)
class Features:
    """The features of a picture, (h, w, 5) float32 on a grid of `step` px, and where they are known, (h, w) bool."""

    maps: NDArray[np.float32]
    known: Mask
    step: tuple[float, float]  # px of the picture in x and y
    size: tuple[int, int]  # (width, height) of the picture, px

    @property
    def nbytes(self) -> int:
        return self.maps.nbytes + self.known.nbytes


def features(image: RGB, foreground: Mask, hidden: Sequence[Box] = ()) -> Features:
    """The features of a picture (H, W, 3) with its foreground (H, W); they are unknown inside the `hidden` boxes.

    Smoothing leaves out hidden pixels. If all is foreground, the lighting is subtracted from the colours, since it does
    not belong to the place.
    """
    height, width = foreground.shape
    scale = min(1.0, WORKING_SIDE / max(height, width))
    columns, rows = max(round(width * scale), 1), max(round(height * scale), 1)
    valid = np.ones((rows, columns), bool)
    for x0, y0, x1, y1 in hidden:
        left, top = int(x0 * columns / width), int(y0 * rows / height)
        valid[top : -int(-y1 * rows // height), left : -int(-x1 * columns // width)] = False
    lab = cielab(resize(image, columns, rows))
    lightness = lab[..., :1]
    mean, square = np.moveaxis(_smooth(np.concatenate([lightness, lightness**2], axis=2), valid, NEIGHBOURHOOD), 2, 0)
    contrast = np.sqrt(np.maximum(square - mean**2, 0))
    inside = resize(foreground, columns, rows)
    colours = _smooth(lab, valid, SMOOTHING)
    colours = colours - _light(colours) if inside.all() else colours
    maps = np.concatenate([colours, contrast[..., None], _depth(inside)[..., None]], axis=2)
    return Features(maps.astype(np.float32), valid, (width / columns, height / rows), (width, height))


def _light(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lighting of a surface (h, w, c): the quadratic polynomial in x and y that fits its colours best."""
    height, width, channels = colours.shape
    rows, columns = min(GRID, height), min(GRID, width)
    cells = resize(colours, columns, rows).reshape(-1, channels)
    coefficients = np.linalg.lstsq(_quadratic(rows, columns).reshape(-1, 6), cells, rcond=None)[0]
    return np.asarray(_quadratic(height, width) @ coefficients)


@lru_cache(maxsize=16)
def _quadratic(rows: int, columns: int) -> NDArray[np.float32]:
    """The terms (rows, columns, 6) of a quadratic polynomial in x and y."""
    y, x = (np.arange(number, dtype=np.float32) / number - 0.5 for number in (rows, columns))
    y, x = np.meshgrid(y, x, indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)


def alignment(pictures: Sequence[Features]) -> float:
    """How far pictures show the same thing in the same place, up to 1: the share of the colours' variance on a coarse
    grid that is explained by the place (intraclass correlation)."""
    if len(pictures) < 2:
        return 0.0
    cells = np.stack([resize(one.maps[..., :3], GRID, GRID) for one in pictures]).astype(np.float64)
    cells -= cells.mean(axis=(1, 2), keepdims=True)  # the exposure of each picture
    within = cells.var(axis=0, ddof=1).sum(axis=-1).mean()
    return float(1 - within / max(float((cells**2).sum(axis=-1).mean()), 1e-9))


def _depth(inside: Mask) -> NDArray[np.float32]:
    """The depth of each pixel in an object, (h, w) in [-1, 1]: 0 at the edge, 1 from DEEP sizes of the largest on."""
    if inside.all() or not inside.any():
        return np.ones(inside.shape, np.float32)
    areas = cv2.connectedComponentsWithStats(inside.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    within, beside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 3) for side in (inside, ~inside))
    return np.asarray(np.clip((within - beside) / max(DEEP * math.sqrt(areas.max()), 1), -1, 1))


def _smooth(values: NDArray[np.float32], valid: Mask, sigma: float) -> NDArray[np.float32]:
    """Values (h, w, c), smoothed over the known pixels, (h, w) bool."""
    if valid.all():
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32).reshape(values.shape)
    weights = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), sigma)[..., None]
    sums = cv2.GaussianBlur(values * valid[..., None], (0, 0), sigma).reshape(values.shape)
    return np.asarray(sums / np.maximum(weights, 1e-6))


def scales(pictures: Sequence[Features]) -> NDArray[np.float32]:
    """The standard deviation (6,) of each feature over the objects of some pictures, at least its floor."""
    values = np.concatenate([picture.maps[picture.maps[..., CHANNELS.index("depth")] > 0] for picture in pictures])
    return np.maximum(np.append(values.std(axis=0, dtype=np.float64), 0.0), FLOORS).astype(np.float32)


def reach(box: Box, size: tuple[int, int]) -> float:
    """The unit of the rings' distances, px: half the box's longer side; size: (width, height) of the picture."""
    return max((box[2] - box[0]) / 2, (box[3] - box[1]) / 2, MIN_REACH * min(size))


def ring_offsets(box: Box, size: tuple[int, int]) -> Points:
    """Points on rings around a box, (RINGS, ANGLES, 2) px from its centre; size: (width, height) of the picture.

    A ring is the outline of the box, extended on every side by a multiple of `reach`.
    """
    half = np.array([box[2] - box[0], box[3] - box[1]]) / 2
    angles = 2 * np.pi * (np.arange(ANGLES) + 0.5) / ANGLES
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    grown = half + reach(box, size) * np.array(RINGS)[:, None]  # (RINGS, 2)
    stretch = 1 / np.abs(directions[None] / grown[:, None]).max(axis=-1)
    return np.asarray(directions[None] * stretch[..., None])


def features_at(picture: Features, points: Points) -> tuple[NDArray[np.float32], Mask]:
    """The features (..., RINGS, ANGLES, 6) at points (..., RINGS, ANGLES, 2), and where they are known, bool.

    A point outside the picture gets the features of the nearest pixel, and 1 in the channel "beyond", except on the
    outermost ring: a border that far away is not typical of the place.
    """
    rows, columns = picture.known.shape
    place = np.floor(points / picture.step).astype(np.int64)
    column, row = np.clip(place[..., 0], 0, columns - 1), np.clip(place[..., 1], 0, rows - 1)
    beyond: Mask = np.any((points < 0) | (points >= picture.size), axis=-1)
    beyond[..., -1, :] = False
    values = np.concatenate([picture.maps[row, column], beyond[..., None].astype(np.float32)], axis=-1)
    return values, picture.known[row, column]


def unlikeness(
    real: NDArray[np.float32], valid: Mask, candidates: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The distance of the surroundings of candidates (K, RINGS, ANGLES, 6) to those of a real defect, (K,) in scales.

    real: (RINGS, ANGLES, 6); valid: (RINGS, ANGLES), where it counts. The mean absolute difference of points, which is
    sensitive to where edges and bright areas lie, plus that of the means of rings, which is robust to grain.
    """
    if not valid.any():
        return np.zeros(len(candidates), np.float32)
    difference = (candidates - real) / scale
    weights = (valid / valid.sum()).astype(np.float32)
    points = np.einsum("kraf,ra->k", np.minimum(np.abs(difference), MOST), weights) / len(CHANNELS)
    shares = (valid / np.maximum(valid.sum(axis=-1, keepdims=True), 1)).astype(np.float32)
    means = np.einsum("kraf,ra->krf", difference, shares)
    return np.asarray(points + np.minimum(np.abs(means), MOST).mean(axis=(-2, -1)))
