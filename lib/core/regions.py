"""Where on a picture defects may be placed, and which of its pixels count, as a person painted it.

A picture of regions is white where anything goes, black where no defect may be placed, and red where pixels never
count: serial numbers, fixtures, the ground. On red nothing is placed, learned, found or judged.
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
    """(H, W) of FREE, CLOSED and IGNORED. Raises UserError, with the first place, for a pixel of any other colour."""
    decoded = np.asarray(decode(Path(regions.path)).convert("RGBA"))
    picture = decoded[..., :3]
    if (clear := int((decoded[..., 3] < 255).sum())) > 0:  # what colour is below it, no program shows
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


# Keyed by the digest, too: another picture under an old name is another one.
recent_regions = recent(read_regions, 64 * 2**20)


def free_pixels(regions: RegionMap) -> Mask:
    """(H, W) bool: where a defect may be placed."""
    return np.asarray(recent_regions(regions) == FREE)


def ignored_pixels(regions: RegionMap) -> Mask:
    """(H, W) bool: pixels that never count."""
    return np.asarray(recent_regions(regions) == IGNORED)


def blanked(image: RGB, ignored: Mask) -> RGB:
    """A copy of a picture (H, W, 3) that is grey where pixels never count, (H, W) bool.

    So a detector is neither taught nor alarmed by what is there; an edge remains, in good pictures, too.
    """
    return np.where(ignored[..., None], np.uint8(GREY), image)


def silenced(scores: Scores, ignored: Mask) -> Scores:
    """A copy of a score map (H, W) that is as low as it is anywhere where pixels never count, (H, W) bool."""
    return np.where(ignored, scores.min(), scores)
