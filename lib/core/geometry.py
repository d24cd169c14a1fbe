"""The geometry of pictures: boxes, masks, windows, cropping and pasting back, all at native scale."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; x1 and y1 are exclusive
Polygon = tuple[tuple[int, int], ...]  # pixels (x, y) along a closed outline
RGB = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Scores = NDArray[np.float32]  # (H, W), how anomalous each pixel is
Border = Literal["left", "top", "right", "bottom"]  # of a picture; in the order of a Box
BORDERS: tuple[Border, ...] = get_args(Border)
# The share of a scaled pixel from which on it is defect, or, where lines are so thin that no pixel has much more, this
# part of the largest share: with less of it lines grow thick, with more they fall into dots.
STAYS_DEFECT, OF_LARGEST = 0.25, 0.4


@dataclass(frozen=True)
class Window:
    """A square in pixels of the picture, which may extend beyond the picture's border."""

    x0: int
    y0: int
    side: int

    def inside(self, box: Box) -> Box:
        """The box in coordinates of this window."""
        return box[0] - self.x0, box[1] - self.y0, box[2] - self.x0, box[3] - self.y0


def borders_of(box: Box, size: Sequence[int], within: float = 0) -> tuple[Border, ...]:
    """The borders of a picture of `size` (width, height) that a box reaches, or comes within some px of."""
    gaps = (box[0], box[1], size[0] - box[2], size[1] - box[3])
    return tuple(border for border, gap in zip(BORDERS, gaps, strict=True) if gap <= within)


def can_flip(borders: Collection[Border], axis: int) -> bool:
    """Whether what reaches these borders reaches them again when it is mirrored along x (axis 0) or y (1)."""
    return len(set(BORDERS[axis::2]) & set(borders)) != 1


def window_around(box: Box, shape: Sequence[int], context: float, min_side: int) -> Window:
    """The square window around a box in a picture of shape (H, W, ...): `context` times the box's longer side, at least
    `min_side` px.

    If it fits, it is moved into the picture. It is at most as large as the picture's longer side; along a side that is
    shorter than the window, it is centred on the picture.
    """
    height, width = shape[:2]
    longer = max(box[2] - box[0], box[3] - box[1])
    side = min(max(math.ceil(context * longer), min_side, longer), max(width, height))

    def start(low: int, high: int, extent: int) -> int:
        centred = (low + high - side) // 2
        return min(max(centred, 0), extent - side) if side <= extent else (extent - side) // 2

    return Window(start(box[0], box[2], width), start(box[1], box[3], height), side)


def shift_window(window: Window, by: Sequence[int], box: Box, shape: Sequence[int]) -> Window:
    """The window moved by (x, y) px in a picture of shape (H, W, ...), as far as the whole box stays in view."""

    def start(at: int, step: int, low: int, high: int, extent: int) -> int:
        least, most = max(min(0, at), high - window.side), min(max(extent - window.side, at), low)
        return min(max(at + step, least), most)

    return Window(
        start(window.x0, by[0], box[0], box[2], shape[1]),
        start(window.y0, by[1], box[1], box[3], shape[0]),
        window.side,
    )


def crop(image: NDArray, window: Window) -> NDArray:
    """Crop the window from an (H, W) or (H, W, C) array; beyond the border the picture is mirrored."""

    def mirrored(start: int, extent: int) -> NDArray[np.int64]:
        period = max(2 * (extent - 1), 1)
        index = np.arange(start, start + window.side) % period
        return np.minimum(index, period - index) if extent > 1 else np.zeros(window.side, dtype=np.int64)

    below, right = window.y0 + window.side, window.x0 + window.side
    if window.y0 >= 0 and window.x0 >= 0 and below <= image.shape[0] and right <= image.shape[1]:
        return image[window.y0 : below, window.x0 : right].copy()

    rows, columns = mirrored(window.y0, image.shape[0]), mirrored(window.x0, image.shape[1])
    return image.take(rows, axis=0).take(columns, axis=1)  # faster than by np.ix_


def resize(image: NDArray, width: int, height: int) -> NDArray:
    """Resize (H, W) or (H, W, C): area average when shrinking, cubic when growing. Masks: nearest, stay bool."""
    if image.dtype == bool:
        return cv2.resize(image.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    shrinks = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resize_defects(mask: Mask, width: int, height: int) -> Mask:
    """Resize a mask of defects (H, W), whose thin lines stay whole when they shrink; `resize` cuts them into dots."""
    if width >= mask.shape[1] and height >= mask.shape[0]:
        return np.asarray(resize(mask, width, height))
    shares = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return stay_defect(np.asarray(shares, np.float32))


def stay_defect(shares: NDArray[np.float32]) -> Mask:
    """Which pixels of a shrunken mask are defect, (H, W) bool, by the share of each that was, (H, W) in [0, 1]."""
    least = min(STAYS_DEFECT, OF_LARGEST * float(shares.max(initial=0)))
    return np.asarray((shares >= least) & (shares > 0))


def rescale(image: NDArray, scale: float) -> NDArray:
    """`resize` by a factor, to at least one pixel on each side; the same array for a factor of 1."""
    height, width = (max(1, round(extent * scale)) for extent in image.shape[:2])
    return image if scale == 1 else resize(image, width, height)


def shrunk(image: NDArray, side: int) -> NDArray:
    """At most `side` px on the longer side; the same array if it is no larger."""
    return rescale(image, min(1.0, side / max(image.shape[:2])))


def box_mask(box: Box, width: int, height: int) -> Mask:
    """(height, width) bool, True inside the box, which is clipped to the picture."""
    mask = np.zeros((height, width), dtype=bool)
    mask[max(box[1], 0) : max(box[3], 0), max(box[0], 0) : max(box[2], 0)] = True
    return mask


def polygon_mask(polygon: Polygon, box: Box) -> Mask:
    """(h, w) bool, as large as the box: the pixels inside a polygon and on its outline, clipped to the box.

    A polygon that crosses itself is filled by the even-odd rule.
    """
    mask = np.zeros((box[3] - box[1], box[2] - box[0]), dtype=np.uint8)
    cv2.fillPoly(mask, [np.array(polygon, np.int32) - np.array(box[:2], np.int32)], 1)
    return mask > 0


def feathered(mask: Mask, feather: int) -> NDArray[np.float32]:
    """Opacity in [0, 1]: 0 outside the mask, rising to 1 over `feather` pixels inside it.

    The ramp is inside, so that nothing outside changes; the picture's border is not an edge of the mask.
    """
    if feather <= 0 or mask.all():
        return mask.astype(np.float32)
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(depth / (feather + 1), 1).astype(np.float32)


def scaled(box: Box, factor: float) -> Box:
    """The box in a picture that is resized by `factor`: the smallest integer box that covers it."""
    return (
        math.floor(box[0] * factor),
        math.floor(box[1] * factor),
        math.ceil(box[2] * factor),
        math.ceil(box[3] * factor),
    )


def around(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask (H, W) bool, not empty, and `margin` px more on each side."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return (
        slice(max(top - margin, 0), top + height + margin),
        slice(max(left - margin, 0), left + width + margin),
    )


def paste_back(generated: NDArray, normal: RGB, mask: Mask, feather: int = 0) -> RGB:
    """Restore `normal` wherever `mask` is False, so that only the defect region changes.

    generated: (H, W, 3) uint8 or float in 0..255; normal: (H, W, 3) uint8; mask: (H, W) bool. Returns (H, W, 3)
    uint8, equal to `normal` bit for bit wherever the mask is False. Raises ValueError when the sizes differ.
    """
    if not generated.shape == normal.shape == (*mask.shape, 3):
        raise ValueError(f"sizes differ: generated {generated.shape}, normal {normal.shape}, mask {mask.shape}")
    part = around(mask, 1)  # one pixel more, since `feathered` does not treat the crop's border as an edge
    opacity = feathered(mask[part], feather)[..., None]
    mixed = normal[part] + opacity * (generated[part].astype(np.float32) - normal[part])
    pasted = normal.copy()
    pasted[part] = np.where(mask[part][..., None], np.clip(np.rint(mixed), 0, 255).astype(np.uint8), normal[part])
    return pasted
