"""Predict whole pictures with a network that sees windows: scale, predict overlapping tiles, blend, and scale back."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Scores, Window, crop, rescale


@dataclass(frozen=True)
class Sight:
    """How a detector that sees windows predicts a whole picture, by the tiles of `predict_tiled`.

    window, overlap: pixels after scaling. multiple: sides of tiles are multiples of it. batch: tiles per call. scale:
    factor for the picture. smoothing: standard deviation in pixels after scaling; 0 for none. largest: side in pixels
    of the largest tile, if the network works at any size, else None.
    """

    window: int
    overlap: int
    multiple: int
    batch: int
    scale: float
    smoothing: float = 0.0
    largest: int | None = None


def predict_whole(image: RGB, predict_batch: Callable[[NDArray], NDArray], sight: Sight) -> Scores:
    """The scores of a picture (H, W, 3) uint8 of any size: (H, W) float32, from those of its tiles.

    predict_batch: (B, side, side, 3) uint8 -> (B, side, side) float; or (B, C, side, side), for C maps, (C, H, W).
    """
    layout = sight.window, sight.overlap, sight.multiple, sight.batch, sight.largest
    maps = predict_tiled(rescale(image, sight.scale), predict_batch, *layout)
    if maps.ndim == 2:
        return _finished(maps, image.shape, sight)
    return np.stack([_finished(scores, image.shape, sight) for scores in maps])


def _finished(scores: Scores, shape: Sequence[int], sight: Sight) -> Scores:
    """A score map of the scaled picture, smoothed and resized to the picture of shape (H, W, ...)."""
    height, width = shape[:2]
    if sight.smoothing:
        scores = np.asarray(
            cv2.GaussianBlur(scores, (0, 0), sight.smoothing, borderType=cv2.BORDER_REFLECT), np.float32
        )
    if scores.shape == (height, width):
        return scores
    # Cubic resampling overshoots: peaks of 0.98 and of 0.9999 would both be clipped to 1, and tie.
    return np.asarray(cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def predict_tiled(
    image: RGB,
    predict_batch: Callable[[NDArray], NDArray],
    window: int,
    overlap: int,
    multiple: int = 1,
    batch_size: int = 16,
    largest: int | None = None,
) -> NDArray[np.float32]:
    """Predict an (H, W, C) picture of any size by square `tiles` that overlap by at least `overlap` px.

    predict_batch: (B, side, side, C) -> (B, ..., side, side) float. Tiles are averaged with raised-cosine weights, so
    that no seams are visible. A picture that is smaller than a tile is padded by mirroring. Returns (..., H, W)
    float32. Raises ValueError unless 0 <= overlap < window.
    """
    height, width = image.shape[:2]
    windows = tiles(image.shape, window, overlap, multiple, largest)
    side = windows[0].side
    rows, columns = _shares({tile.y0 for tile in windows}, side), _shares({tile.x0 for tile in windows}, side)
    total = np.zeros((height, width))
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        scores = predict_batch(np.stack([crop(image, tile) for tile in batch]))
        if not first:
            total = np.zeros((*scores.shape[1:-2], height, width))
        for tile, score in zip(batch, scores, strict=True):
            top, left = max(tile.y0, 0), max(tile.x0, 0)
            there = slice(top, min(tile.y0 + side, height)), slice(left, min(tile.x0 + side, width))
            here = tuple(slice(s.start - o, s.stop - o) for s, o in zip(there, (tile.y0, tile.x0), strict=True))
            weights = np.outer(rows[tile.y0][here[0]], columns[tile.x0][here[1]])
            total[..., *there] += weights * score[..., *here]
    return total.astype(np.float32)


def _shares(starts: Collection[int], side: int) -> dict[int, NDArray[np.float32]]:
    """The weights (side,) of the tiles along one axis, by the tiles' first pixels.

    Raised cosines, normalised to a sum of 1 at each pixel; the weights of both axes are multiplied.
    """
    # The floor keeps the weights of the picture's border pixels, which only one tile sees, well above rounding errors.
    ramp = np.maximum(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2, 1e-2)
    low = min(starts)
    total = np.zeros(max(starts) - low + side)
    for start in starts:
        total[start - low : start - low + side] += ramp
    return {start: (ramp / total[start - low : start - low + side]).astype(np.float32) for start in starts}


def tiles(
    shape: Sequence[int], window: int, overlap: int, multiple: int = 1, largest: int | None = None
) -> list[Window]:
    """The tiles by which `predict_tiled` covers a picture of shape (H, W, ...), row by row, all of one size.

    Their side is `window`, or up to half as much more if that saves a row of tiles, rounded up to a `multiple`. With
    `largest`, it is the side between `window` and `largest` with the fewest pixels in total, and with the fewest tiles
    if several have as few. Raises ValueError unless 0 <= overlap < window.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap is {overlap}, expected at least 0 and less than the window of {window} px")
    height, width = shape[:2]
    if largest is None:
        side = max(_side(extent, window, overlap, multiple) for extent in (height, width))
    else:
        sides = range(math.ceil(window / multiple) * multiple, max(window, largest) + 1, multiple)
        side = min(sides, key=lambda side: (_pixels(height, width, side, overlap), -side))
    return [Window(x, y, side) for y in _starts(height, side, overlap) for x in _starts(width, side, overlap)]


def _side(extent: int, window: int, overlap: int, multiple: int) -> int:
    """The side of tiles that cover an axis in the rounded number of windows that it takes."""
    count = max(1, math.floor((extent - overlap) / (window - overlap) + 0.5))
    covers = (extent + (count - 1) * overlap) / count
    return math.ceil(max(covers, window) / multiple) * multiple


def _pixels(height: int, width: int, side: int, overlap: int) -> int:
    """The total number of pixels of the tiles of a side that cover a picture."""
    return side**2 * _count(height, side, overlap) * _count(width, side, overlap)


def _count(extent: int, side: int, overlap: int) -> int:
    return math.ceil(max(extent - side, 0) / (side - overlap)) + 1


def _starts(extent: int, side: int, overlap: int) -> list[int]:
    """Evenly spread first pixels of the tiles along one axis; the first and the last touch the borders."""
    if extent <= side:
        return [(extent - side) // 2]
    return [round(start) for start in np.linspace(0, extent - side, _count(extent, side, overlap))]
