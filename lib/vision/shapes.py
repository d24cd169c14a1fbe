"""Shapes of holes to inpaint: the mask of a real defect, deformed to fit a new box, or a random drawing."""

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import BORDERS, Border, Box, Mask, can_flip

ANGLE = 8.0  # degrees; standard deviation of the rotation
TURN = 0.25  # the rotation moves the ends by at most this share of the box's shorter side: lines stay in flat boxes
WAVES = 0.2  # smoothness of the elastic displacement: blur, as a share of the box's longer side
AMPLITUDE = 0.05  # standard deviation of the displacement, as a share of the box's shorter side
STROKE_POINTS = 12  # of a drawn stroke
STROKE_JITTER = 0.12  # step of a stroke's random walk about the diagonal, as a share of the box's shorter side
BLOB_WAVES = 0.25  # blur of the noise that a blob is cut from, as a share of the box's shorter side
ELONGATED = 4.0  # ratio of length to thickness from which on a shape is a line
HALF_DIAGONAL = 0.75  # of a pixel, rounded up
MOST_SHARED = 0.5  # largest overlap of two pieces of a line, as a share of a piece: bounds the number of pieces
MARGIN = 0.12  # of a box's sides that a drawn shape leaves free on each side


def bent(
    mask: Mask, size: tuple[int, int], growth: float, rng: np.random.Generator, borders: Collection[Border] = ()
) -> Mask:
    """A real defect's mask (h, w) bool, stretched to `size` (width, height), flipped, slightly rotated and deformed.

    It is dilated by `growth` px of the result, at least one, through its distance map, so that thin lines stay
    connected. borders: those of the picture that it reaches and will reach: then it goes on beyond them, and is not
    rotated, nor flipped away from one. An empty mask stays empty.
    """
    width, height = size
    if not mask.any():
        return np.zeros((height, width), dtype=bool)
    for axis in (0, 1):
        if rng.random() < 0.5 and can_flip(borders, 1 - axis):  # rows lie along y
            mask = np.flip(mask, axis)
    scale = np.array([mask.shape[1] / width, mask.shape[0] / height])
    most = np.arctan(TURN * min(size) / max(size))
    angle = np.clip(np.deg2rad(rng.normal(0, ANGLE)), -most, most) * (not borders)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    places = (centres - [width / 2, height / 2]) @ rotation.T + [width / 2, height / 2] + _waves(size, rng)
    source = (places * scale - 0.5).astype(np.float32)
    away = cv2.distanceTransform(1 - mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    x, y = np.ascontiguousarray(source[..., 0]), np.ascontiguousarray(source[..., 1])
    warped = cv2.remap(away, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    beyond = np.concatenate([-source, source - (np.array(mask.shape[1::-1]) - 1)], axis=-1)  # in the order of BORDERS
    outside = beyond[..., [border not in borders for border in BORDERS]].max(axis=-1, initial=0)
    # At least one px of the result keeps lines of one pixel connected on any grid; if the mask is enlarged, half the
    # diagonal of its pixels keeps diagonal neighbours connected.
    reach = max(max(growth, 1) * scale.mean(), HALF_DIAGONAL)
    return np.asarray(warped + outside <= reach)


def drawn(size: tuple[int, int], like: Mask, rng: np.random.Generator) -> Mask:
    """A random shape in a box of `size` (width, height): a stroke along a diagonal, as thick as the real mask `like`.

    A blob if such a stroke would fill half of the box's shorter side.
    """
    width, height = size
    thickness = _thickness(like)
    if 2 * thickness >= min(width, height):
        return blob(size, rng)
    along = np.linspace(MARGIN, 1 - MARGIN, STROKE_POINTS)[:, None] * [width, height]
    strays = np.cumsum(rng.normal(0, STROKE_JITTER * min(size), (STROKE_POINTS, 2)), axis=0)
    strays -= np.linspace(0, 1, STROKE_POINTS)[:, None] * strays[-1]  # it ends where the diagonal ends
    if rng.random() < 0.5:
        along[:, 0] = width - along[:, 0]
    canvas = np.zeros((height, width), np.uint8)
    points = np.rint(along + strays).astype(np.int32)
    cv2.polylines(canvas, [points], False, 1, max(round(thickness), 1))
    return np.asarray(canvas > 0)


def blob(size: tuple[int, int], rng: np.random.Generator) -> Mask:
    """A random blob in a box of `size` (width, height): the largest region where smooth noise is high."""
    width, height = size
    noise = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), max(BLOB_WAVES * min(size), 1))
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    hill = 1 - (x**2 + y**2) / (1 - 2 * MARGIN) ** 2 + noise / max(noise.std(), 1e-9) / 3
    _, labels, stats, _ = cv2.connectedComponentsWithStats((hill > 0).astype(np.uint8))
    if len(stats) == 1:
        return np.ones((height, width), dtype=bool)  # a box of a pixel or two
    return np.asarray(labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax())


def grown(mask: Mask, by: int) -> Mask:
    """The mask, dilated by `by` px."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1,) * 2)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc) > 0)


def covering(mask: Mask, side: int) -> Mask:
    """A square mask resized to (side, side): a pixel is set if any part of it was, so that no line is lost."""
    shrinks = side < mask.shape[0]
    resized = cv2.resize(
        mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST_EXACT
    )
    return np.asarray(resized > 1e-6)


def within(mask: Mask, box: Box) -> Mask:
    """The part of a mask (H, W) inside a box, as large as it."""
    return mask[box[1] : box[3], box[0] : box[2]]


def placed(shape: Mask, box: Box, width: int, height: int) -> Mask:
    """(height, width) bool: the shape, which is as large as the box, at the place of the box."""
    mask = np.zeros((height, width), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = shape
    return mask


def is_line(mask: Mask) -> bool:
    """Whether a shape is much longer than thick."""
    along = _along(mask)
    return len(along) > 1 and bool(np.ptp(along) >= ELONGATED * _thickness(mask))


def pieces(mask: Mask, longest: float, overlap: float) -> list[Mask]:
    """A line split along its length into pieces of at most about `longest` px; other shapes are not split.

    Neighbours overlap by `overlap` px, at most MOST_SHARED of `longest`. The union of the pieces is the mask.
    """
    along = _along(mask)
    if not is_line(mask) or np.ptp(along) <= longest:
        return [mask]
    start, length = along.min(), np.ptp(along)
    overlap = min(overlap, MOST_SHARED * longest)
    count = int(np.ceil((length - overlap) / (longest - overlap)))
    step = (length - overlap) / count
    split = []
    for number in range(count):
        low = start + number * step
        piece = np.zeros_like(mask)
        # A pixel more: rounding must leave none out.
        piece[tuple(np.argwhere(mask)[(along >= low - 1) & (along <= low + step + overlap + 1)].T)] = True
        split.append(piece)
    return split


def _along(mask: Mask) -> NDArray[np.float64]:
    """The coordinate of each pixel along the mask's principal axis, in px from the centroid."""
    points = np.argwhere(mask).astype(np.float64)
    if len(points) < 2:
        return np.zeros(len(points))
    points -= points.mean(axis=0)
    return np.asarray(points @ np.linalg.eigh(points.T @ points)[1][:, -1])


def _thickness(mask: Mask) -> float:
    """Diameter in px of the largest disc that fits into the mask; 0 when empty."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return 2 * float(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())


def _waves(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random displacement (height, width, 2) in px (Simard et al. 2003)."""
    longer = max(size)
    noise = rng.normal(size=(size[1], size[0], 2))
    smooth = cv2.GaussianBlur(noise, (0, 0), max(WAVES * longer, 1), borderType=cv2.BORDER_REFLECT)
    return smooth / max(smooth.std(), 1e-9) * AMPLITUDE * min(size)
