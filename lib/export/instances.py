"""Single defects of a picture: the connected components of its masks, as boxes, run lengths and polygons."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from lib.core.geometry import Box, Mask

# Polygons run a little inside of the outer edge of their pixels: so they are right for readers that fill by pixel
# centres, and for those that cut coordinates down to whole pixels and draw the border, too.
UNITS = 1000  # of a pixel; coordinates are whole numbers of them while a polygon is made
INSIDE = 50  # from the edge
BEFORE, BEHIND = 250, 110  # from a corner that two pixels share and that the polygon goes through


class Instance(NamedTuple):
    """An 8-connected component of a mask: its type, tight box, and mask (h, w) bool within that box."""

    defect_type: str
    box: Box
    mask: Mask

    @property
    def area(self) -> int:
        """In pixels."""
        return int(self.mask.sum())


def instances_of(masks: Sequence[tuple[str, Mask]]) -> list[Instance]:
    """All components of all masks, by type, then from top to bottom; pieces of one pixel count, too."""
    instances = []
    for name, mask in masks:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        for number, (x, y, width, height, _) in enumerate(stats[1:].tolist(), start=1):
            part = labels[y : y + height, x : x + width] == number
            instances.append(Instance(name, (x, y, x + width, y + height), part))
    return sorted(instances, key=lambda one: (one.defect_type, one.box[1], one.box[0], one.box))


def run_lengths(instance: Instance, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of an instance in a picture of `size` (width, height): `size` (height, width) and
    `counts` as text."""
    x0, y0, x1, y1 = instance.box
    whole = np.zeros(size[::-1], np.uint8, order="F")
    whole[y0:y1, x0:x1] = instance.mask
    encoded = coco_mask.encode(whole)
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def polygon(instance: Instance) -> NDArray[np.float64]:
    """The outline of an instance as one closed polygon (N, 2) of x, y in px, N >= 4, its last point not repeated.

    (0, 0) is the upper left corner of the upper left pixel. A hole, for which a polygon has no place of its own, is
    joined to the outline by a cut of no width, walked along once in each direction: filled by the even-odd or the
    non-zero rule, the hole stays empty.
    """
    doubled = np.pad(instance.mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, levels = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [[(int(x), int(y)) for x, y in contour[:, 0]] for contour in contours]
    (outline,) = [ring for ring, level in zip(rings, levels[0], strict=True) if level[3] < 0]
    # From left to right: whatever a cut to the left of a hole meets is part of the outline already.
    for hole in sorted((ring for ring, level in zip(rings, levels[0], strict=True) if level[3] >= 0), key=min):
        outline = _joined(outline, hole, doubled)
    pixels, halves = np.divmod(np.array(outline) - 1, 2)
    points = _corners(pixels * UNITS + np.where(halves == 0, INSIDE, UNITS - INSIDE))
    return _stepping_over(points) / UNITS + instance.box[:2]


def _joined(outline: list[tuple[int, int]], hole: list[tuple[int, int]], doubled: NDArray) -> list[tuple[int, int]]:
    """The outline with a detour: left of the hole's leftmost point to it, around it, and back."""
    first = hole.index(min(hole))
    x, y = hole[first]
    while doubled[y, x - 1]:
        x -= 1
    at = outline.index((x, y))
    return [*outline[: at + 1], *hole[first:], *hole[: first + 1], *outline[at:]]


def _corners(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """A closed polygon without doubled points and points within a straight line; where it turns back stays a corner."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    straight = before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]
    onward = (before * after).sum(axis=1) > 0
    return points[~(straight & onward)]


def _stepping_over(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """The polygon with longer steps from pixels to those that they touch at a corner, which lies off their middle.

    That corner counts for one of four pixels, perhaps for an empty one. A reader that puts points between ours, as
    Ultralytics does, is kept from putting one just there.
    """
    steps = np.roll(points, -1, axis=0) - points
    over = np.where((np.abs(steps) == 2 * INSIDE).all(axis=1, keepdims=True), np.sign(steps), 0)
    return points - (BEFORE - INSIDE) * over + (BEHIND - INSIDE) * np.roll(over, 1, axis=0)
