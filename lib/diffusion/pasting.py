"""Put what was painted into a window back into the picture, inside of a mask alone."""

import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Mask, Window, paste_back, resize


def apply_change(normal: RGB, window: Window, change: NDArray[np.float32], mask: Mask, feather: int) -> RGB:
    """Add the change that was painted into a window to the picture, inside of the mask alone.

    normal: (H, W, 3) uint8; mask: (H, W) bool; change: (S, S, 3) float32 in [-255, 255], generated minus round trip at
    the base's resolution. Adding the difference, instead of pasting the decoded picture, keeps the grain that the
    autoencoder loses and leaves no trace where the model painted what was there before.
    """
    change = resize(change, window.side, window.side)
    painted = normal.astype(np.float32)
    x0, y0 = max(window.x0, 0), max(window.y0, 0)
    x1, y1 = min(window.x0 + window.side, normal.shape[1]), min(window.y0 + window.side, normal.shape[0])
    painted[y0:y1, x0:x1] += change[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
    return paste_back(painted, normal, mask, feather)
