"""Masks that are kept as the part of the picture in which they lie, and COCO's run lengths, which become such parts.

So a small region of a large picture takes little memory and time, and thousands of them can be drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from lib.core.errors import UserError
from lib.core.geometry import Mask
from lib.core.images import MAX_PIXELS


@dataclass(frozen=True)
class Patch:
    """A part (h, w) bool of a mask, which is False elsewhere; its upper left pixel is the picture's pixel x, y."""

    x: int
    y: int
    mask: Mask

    def of(self, picture: NDArray) -> NDArray:
        """The same part (h, w, ...) of a picture (H, W, ...), as a view."""
        height, width = self.mask.shape
        return picture[self.y : self.y + height, self.x : self.x + width]


@dataclass(frozen=True)
class RunLengths:
    """A mask in COCO's compressed run-length encoding; size: (width, height)."""

    counts: bytes
    size: tuple[int, int]


def cut_out(mask: Mask, x: int = 0, y: int = 0) -> Patch:
    """The smallest patch that holds all of a mask (h, w), whose upper left pixel is the picture's pixel x, y."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    # A copy, so that the memory of the larger mask is released.
    return Patch(x + left, y + top, mask[top : top + height, left : left + width].copy())


def united(patches: Iterable[Patch]) -> Patch:
    """The union of patches. It holds one of them at a time, since each may be as large as the picture."""
    whole = Patch(0, 0, np.zeros((0, 0), bool))
    for patch in patches:
        if not patch.mask.size:
            continue
        parts = (whole, patch) if whole.mask.size else (patch,)
        x, y = min(one.x for one in parts), min(one.y for one in parts)
        right = max(one.x + one.mask.shape[1] for one in parts)
        bottom = max(one.y + one.mask.shape[0] for one in parts)
        union = Patch(0, 0, np.zeros((bottom - y, right - x), bool))
        for one in parts:
            Patch(one.x - x, one.y - y, one.mask).of(union.mask)[...] |= one.mask
        whole = Patch(x, y, union.mask)
    return whole


def encoded(mask: Mask) -> RunLengths:
    """A mask (H, W) bool as run lengths."""
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return RunLengths(counts, (mask.shape[1], mask.shape[0]))


def decoded(runs: RunLengths) -> Patch:
    """The mask of run lengths. Raises UserError if they do not fill their picture.

    Of the picture, only the columns are decoded in which the mask lies.
    """
    width, height = runs.size
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(f"run lengths of {width} x {height} px; at most {MAX_PIXELS:,} are read")
    lengths = _lengths(runs.counts)
    if lengths is None or min(lengths, default=-1) < 0 or sum(lengths) != width * height:
        raise UserError(f"run lengths that do not fill their {width} x {height} px")
    ends = np.cumsum(lengths)
    marked = 1 + 2 * np.flatnonzero(lengths[1::2])  # the runs that are in the mask, and not empty
    if not marked.size:
        return Patch(0, 0, np.zeros((0, 0), bool))
    x0, x1 = int(ends[marked[0] - 1]) // height, (int(ends[marked[-1]]) - 1) // height + 1
    inside = np.diff(np.clip(ends - x0 * height, 0, (x1 - x0) * height), prepend=0)
    return cut_out(np.repeat(np.arange(len(inside)) % 2 > 0, inside).reshape(x1 - x0, height).T, x0)


def _lengths(counts: bytes) -> list[int] | None:
    """The numbers in COCO's compressed run lengths; None if they are invalid.

    Each character holds five bits, lowest first; from the fourth number on, the difference to the one two before is
    stored. pycocotools is not used, since it reads and writes out of bounds for truncated text.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in counts:
        bits = letter - 48
        if not (0 <= bits < 64 and shift < 35):
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return None if shift else lengths
