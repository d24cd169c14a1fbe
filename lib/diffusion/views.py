"""Training views of real defects: windows of varied size, place and orientation, so that none is learned by heart."""

import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import Box, Window, shift_window, window_around

CONTEXT_SPREAD = (0.85, 1.25)  # factor of the window's context, drawn for each view
SHIFT = 4  # a window moves by at most 1 / SHIFT of the space that it leaves beside the defect

Flips = tuple[bool, bool]  # left to right, upside down


def flips_of(variant: int) -> Flips:
    """The orientation of a view by its number: four in turn."""
    return bool(variant & 1), bool(variant & 2)


def flipped(image: NDArray, flips: Flips) -> NDArray:
    """(H, W, ...) mirrored as `flips` says, contiguous in memory."""
    across, down = (slice(None, None, -1 if flip else 1) for flip in flips)
    return np.ascontiguousarray(image[down, across])


def random_window(box: Box, shape: tuple[int, ...], context: float, min_side: int, rng: np.random.Generator) -> Window:
    """A window around the box as `window_around` cuts it, but a little larger or smaller and shifted.

    The whole box stays in view. shape: (H, W, ...) of the picture.
    """
    window = window_around(box, shape, max(context * rng.uniform(*CONTEXT_SPREAD), 1.0), min_side)
    spare = (window.side - max(box[2] - box[0], box[3] - box[1])) // SHIFT
    return shift_window(window, rng.integers(-spare, spare + 1, size=2).tolist(), box, shape) if spare > 0 else window
