"""Training views of rendered pairs: a piece or a window, turned and flipped, with its hole and its captions."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib import language
from lib.base.settings import SIDE, Inpainting, Pool, Windows
from lib.core.geometry import RGB, Mask, box_mask, crop, resize, shift_window, window_around
from lib.core.runtime import progress
from lib.dataset.surfaces import Pair

LINES = ("crack", "scratch", "thread")  # a few pixels of a box each, and what a small network learns last
CAPTION_STREAM = 7  # tells the random numbers of captions from those of pictures
ENCODING_BATCH = 64  # views that the autoencoder takes at a time
LARGEST_MARGIN = 0.35  # of a hole around its defect, on each side, in lengths of the defect's longer side
LARGEST_GROWTH = 5  # pixels by which a hole of the defect's own shape is grown


class View(NamedTuple):
    """What the U-Net restores: a picture (S, S, 3) uint8, its hole (S, S) bool, and the captions that fit it."""

    image: RGB
    hole: Mask
    captions: list[str]


class Captions(NamedTuple):
    """All captions of a pair's defect picture, and of its normal one."""

    defect: list[str]
    normal: list[str]


def captions_of(pair: Pair, index: int, seed: int) -> Captions:
    """Captions of pair number `index`.

    The place that a caption names is that of the window in an imagined larger picture, which the window does not show:
    the pipeline, too, describes the place in the whole picture and generates in a window.
    """
    rng = np.random.default_rng([seed, CAPTION_STREAM, index])
    places = [language.location_of((x, y), 3, 3) for x, y in rng.uniform(0, 3, (2, 2))]
    category = pair.surface.replace(" ", "_")
    defect = [text for place in places for text in language.captions(pair.defect_type, category, place)]
    return Captions(defect, [language.normal_caption(category)])


def views_of(pool: list[Pair], captions: list[Captions], settings: Inpainting, shares: Pool, seed: int) -> list[View]:
    """The views of one phase: of each pair's defect picture and, for a share of them, of the normal one, too.

    Of less than one view for each pair, as many pairs have one as make that share. Pairs whose hole is larger than
    `settings.largest_hole` have none.
    """
    views = []
    for index, pair in enumerate(pool):
        even = int((index + 1) * settings.views) - int(index * settings.views)
        for number in range(settings.line_views if pair.defect_type in LINES else even):
            rng = np.random.default_rng([seed, index, number])
            hole = hole_of(pair, rng, shares.mask_share)
            if max(np.ptp(extent) + 1 for extent in np.nonzero(hole)) > settings.largest_hole:
                continue
            arrays = turn((pair.defect, pair.normal, hole), rng)
            if isinstance(settings, Windows):
                defect, normal, hole = window_of(arrays, settings, rng)
            else:
                defect, normal, hole = piece_of(arrays, settings.crop, rng)
            views.append(View(defect, hole, captions[index].defect))
            if rng.random() < shares.normal_share:
                views.append(View(normal, hole, captions[index].normal))
    return views


def in_batches(views: list[View]) -> Iterator[tuple[NDArray, NDArray, Tensor]]:
    """Batches as `lib.diffusion.inpainting.encode_views` reads them: pictures, holes, and a seed for each view."""
    for start in progress(range(0, len(views), ENCODING_BATCH), "encode"):
        batch = views[start : start + ENCODING_BATCH]
        seeds = torch.arange(start, start + len(batch))
        yield np.stack([view.image for view in batch]), np.stack([view.hole for view in batch]), seeds


def hole_of(pair: Pair, rng: np.random.Generator, mask_share: float) -> Mask:
    """(SIDE, SIDE) bool: the defect's box with a random margin or, for a share, its own shape, grown."""
    if rng.random() < mask_share:
        reach = int(rng.integers(1, LARGEST_GROWTH + 1))
        return cv2.dilate(pair.mask.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    rows, columns = np.nonzero(pair.mask)
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    margins = 1 + np.rint(rng.uniform(0, LARGEST_MARGIN, 4) * longer).astype(int)
    x0, y0 = int(columns.min() - margins[0]), int(rows.min() - margins[1])
    x1, y1 = int(columns.max() + margins[2]), int(rows.max() + margins[3])
    return box_mask((x0, y0, x1, y1), SIDE, SIDE)


def turn(arrays: tuple[NDArray, ...], rng: np.random.Generator) -> tuple[NDArray, ...]:
    """Arrays (SIDE, SIDE, ...), all turned by the same random quarter turns and flipped alike."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    return tuple(np.rot90(array, turns)[:: -1 if flip else 1] for array in arrays)


def piece_of(arrays: tuple[NDArray, ...], side: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """The same piece (side, side) of arrays (SIDE, SIDE, ...).

    It shows all of the hole, which is the last of the arrays, or as much of the hole as it can hold.
    """
    starts = []
    for extent in np.nonzero(arrays[-1]):
        low, high = np.clip(sorted((int(extent.max()) + 1 - side, int(extent.min()))), 0, SIDE - side)
        starts.append(int(rng.integers(low, high + 1)))
    y, x = starts
    return tuple(np.ascontiguousarray(array[y : y + side, x : x + side]) for array in arrays)


def window_of(arrays: tuple[NDArray, ...], settings: Windows, rng: np.random.Generator) -> tuple[Any, ...]:
    """The same window of arrays (SIDE, SIDE, ...) around the hole, which is the last of them, as the pipeline cuts it.

    It is some lengths of the hole wide, a little off its centre, and resized to `crop` pixels.
    """
    left, top, wide, high = cv2.boundingRect(arrays[-1].astype(np.uint8))
    box = (left, top, left + wide, top + high)
    window = window_around(box, (SIDE, SIDE), rng.uniform(*settings.context), settings.min_side)
    spare = [(window.side - extent) // 4 for extent in (wide, high)]
    window = shift_window(window, [int(rng.integers(-most, most + 1)) for most in spare], box, (SIDE, SIDE))
    return tuple(resize(crop(array, window), settings.crop, settings.crop) for array in arrays)
