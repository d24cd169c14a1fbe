"""Paste what was painted in a window back into the picture, inside a mask only."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from lib.core.geometry import RGB, Mask, Window, box_mask, paste_back, resize, scaled

UNBOUND = 1e-9  # pulls the drift to 0 where no rim determines it; negligible next to a rim
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def apply_change(normal: RGB, window: Window, change: NDArray[np.float32], mask: Mask, feather: int) -> RGB:
    """Add the change that was painted in a window to the picture, inside the mask only.

    normal: (H, W, 3) uint8; mask: (H, W) bool; change: (S, S, 3) float32 in [-255, 255], generated minus round trip at
    the base's resolution. Adding the difference, instead of pasting the decoded picture, keeps the grain that the
    autoencoder loses, and changes nothing where the model painted what was there before.
    """
    change = resize(change, window.side, window.side)
    painted = normal.astype(np.float32)
    x0, y0 = max(window.x0, 0), max(window.y0, 0)
    x1, y1 = min(window.x0 + window.side, normal.shape[1]), min(window.y0 + window.side, normal.shape[0])
    painted[y0:y1, x0:x1] += change[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
    return paste_back(painted, normal, mask, feather)


def defect_changes(
    generated: NDArray[np.float32], round_trip: NDArray[np.float32], flawless: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The change that paints the defect onto the good picture; all pictures have one shape and values in [0, 255].

    round_trip: the good picture, encoded and decoded. flawless: the sample without a defect from the same noise.
    Without it every difference to the round trip is taken for the defect, the ground that the model repainted, too.
    With it the true ground shows through the defect as far as the defect is transparent: a darker one is taken for an
    absorbing layer that transmits the share generated / flawless of the light, a brighter one for a veil that leaves
    the same share of what is missing to white. So a stain keeps the grain beneath it, and a hole shows none.
    """
    if flawless is None:
        return generated - round_trip
    light, without = np.clip(generated, 0, 255) + 1, np.clip(flawless, 0, 255) + 1  # no division by 0
    transmission = np.minimum(np.minimum(light / without, (257 - light) / (257 - without)), 1)
    return generated - round_trip - transmission * (flawless - round_trip)


def seamless(change: NDArray[np.floating], region: Mask, window: Window, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The change minus its drift, so that it is 0 along the rim of the region and keeps its gradients inside.

    change: (S, S, C) of a window in a picture of shape (H, W, ...); region: (S, S) bool, where it is allowed. The drift
    is the harmonic function with the values of the change on the rim, as in gradient-domain cloning (Perez et al. 2003,
    eq. 2, solved for the correction). Where the region ends at the border of the picture there is no rim.
    Returns (S, S, C), 0 outside the region; without any rim the change inside it is unaltered.
    """
    side = len(region)
    picture = box_mask(scaled(window.inside((0, 0, shape[1], shape[0])), side / window.side), side, side)
    region = region & picture
    whole = np.pad(region | ~picture, 1, constant_values=True).astype(np.uint8)
    inner = region & (cv2.erode(whole, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))[1:-1, 1:-1] > 0)
    drift = np.where((region & ~inner)[..., None], change, 0.0)
    corrected = np.where(region[..., None], change, 0.0)
    if not inner.any():
        return (corrected - drift).astype(np.float32)
    number = np.full((region.shape[0] + 2, region.shape[1] + 2), -1)  # of each unknown, in a frame that has none
    number[1:-1, 1:-1][inner] = np.arange(inner.sum())
    inside = np.pad(region, 1)
    y, x = np.nonzero(number >= 0)
    own = number[y, x]
    degree, target = np.full(len(own), UNBOUND), np.zeros((len(own), change.shape[2]))
    links = []
    for down, across in NEIGHBOURS:
        other = number[y + down, x + across]
        degree += inside[y + down, x + across]
        links.append((own[other >= 0], other[other >= 0]))
        on_rim = (other < 0) & inside[y + down, x + across]
        target[on_rim] += drift[y[on_rim] + down - 1, x[on_rim] + across - 1]
    rows, columns = (np.concatenate(part) for part in zip(*links, strict=True))
    laplacian = sparse.diags_array(degree) - sparse.coo_array(
        (np.ones(len(rows)), (rows, columns)), shape=(len(own),) * 2
    )
    drift[inner] = splu(laplacian.tocsc()).solve(target)
    return (corrected - drift).astype(np.float32)
