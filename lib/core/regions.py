"""Regions of a picture where defects may be placed, and where pixels count, as painted by a person.

A picture of regions is white where everything is allowed, black where no defect may be placed, and red where pixels
never count: serial numbers, fixtures, the background. Red pixels are not used to place, train, detect or evaluate.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, Scores
from lib.core.images import decode, recent
from lib.core.records import RegionMap

COLOURS = ((255, 255, 255), (0, 0, 0), (255, 0, 0))  # white, black, red
FREE, CLOSED, IGNORED = range(3)
GREY = 128


def read_regions(regions: RegionMap) -> NDArray[np.uint8]:
    """(H, W) of FREE, CLOSED and IGNORED. Raises UserError for pixels of other colours, with the place of the first."""
    decoded = np.asarray(decode(Path(regions.path)).convert("RGBA"))
    picture = decoded[..., :3]
    if (clear := int((decoded[..., 3] < 255).sum())) > 0:  # the colour of transparent pixels is not visible
        raise UserError(f"{regions.path}: {clear} pixel(s) are transparent; save it on a white ground")
    kinds = np.full(picture.shape[:2], len(COLOURS), np.uint8)
    for kind, colour in enumerate(COLOURS):
        kinds[(picture == colour).all(axis=2)] = kind
    if (others := np.argwhere(kinds == len(COLOURS))).size:
        y, x = others[0].tolist()
        raise UserError(
            f"{regions.path}: {len(others)} pixel(s) are neither white, black nor red, the first at x {x}, y {y} with "
            f"the colour {tuple(picture[y, x].tolist())}; save it without smoothing, as PNG and not as JPEG"
        )
    return kinds


# The key includes the digest: a new picture under an old name is read again.
recent_regions = recent(read_regions, 64 * 2**20)


def free_pixels(regions: RegionMap) -> Mask:
    """(H, W) bool: where a defect may be placed."""
    return np.asarray(recent_regions(regions) == FREE)


def read_ignored(regions: RegionMap) -> Mask:
    """(H, W) bool: pixels that never count."""
    return np.asarray(recent_regions(regions) == IGNORED)


ignored_pixels = recent(read_ignored, 64 * 2**20)  # each training window asks for them


def blanked(image: RGB, ignored: Mask) -> RGB:
    """A copy of a picture (H, W, 3) that is grey where pixels never count, (H, W) bool.

    A detector neither learns from nor reacts to what is there. The edge of the region remains, also in good pictures.
    """
    return np.where(ignored[..., None], np.uint8(GREY), image)


def silenced(scores: Scores, ignored: Mask) -> Scores:
    """A copy of a score map (H, W) with a score just below all others where pixels never count, (H, W) bool."""
    lowest = scores.min()
    return np.where(ignored, lowest - np.float32(1e-6) * max(1, abs(lowest)), scores)
