"""Where the object is in a picture: the whole of it for a texture, else what stands out from a plain background."""

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Mask, resize

WORKING_SIDE = 192  # px of the longer side: enough for an outline, and a few milliseconds whatever the picture's size
MIN_SIDE = 16  # px of the shorter side at that size
FRAME = 0.03  # width of the border frame that teaches the background, as a share of the shorter side
PLAIN_SHARE = 0.75  # of the frame that the background is fitted to: an object may touch the rest
MEDIAN_NORM = 1.54  # of three normal values of unit variance, as the residual in CIELAB has them
NOISE = 2.0  # CIELAB units below which no background is told apart from sensor noise and shading
# A frame that varies more than this (CIELAB units, robust standard deviation) is no plain background.
MAX_FRAME_SPREAD = 8.0
# The checks that an object must pass; where one fails the picture counts as texture, because boxes that may lie
# anywhere do less harm than boxes that are kept on a stain which was taken for the object.
MIN_SEPARATION = 8.0  # robust standard deviations between the background and the median of the object
MAX_FRAME_SHARE = 0.2  # of the frame may be object: parts that are cut off by the picture's border
MIN_SHARE = 0.06  # of the picture must be object
MIN_SOLIDITY = 0.5  # of its convex hull must be object, bores filled: specks and scratches are scattered
MAX_BESIDE = 0.1  # of what stands out may lie outside of the object
MAX_PINHOLE = 0.01  # of the object's area; larger holes in it show the background


def foreground_mask(image: RGB) -> Mask:
    """The object in a picture, (H, W) bool from (H, W, 3) uint8 RGB; all True where no object can be told for sure.

    A border frame gives the colour of the background, as a plane over the picture in CIELAB (lighting is seldom
    even); Otsu's threshold on the logarithm of the distance to it gives the object. Bores and gaps that show the
    background are not part of the object, pinholes and glints within it are.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    everything = np.ones((height, width), dtype=bool)
    if min(height, width) * scale < MIN_SIDE:  # a strip: no frame to speak of
        return everything
    small = resize(image, round(width * scale), round(height * scale))
    smooth = cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), 1.0)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32)
    frame = np.ones(small.shape[:2], dtype=bool)
    edge = max(2, round(FRAME * min(small.shape[:2])))
    frame[edge:-edge, edge:-edge] = False

    distance, spread = _distance_to_background(lab, frame)
    if spread > MAX_FRAME_SPREAD:
        return everything
    levels = _as_byte(np.log1p(distance))
    salient = levels > cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
    mask = _largest_whole(salient)
    if not _is_object(mask, salient, distance, frame):
        return everything
    return resize(mask, width, height)


def _distance_to_background(lab: NDArray[np.float32], frame: Mask) -> tuple[NDArray[np.float32], float]:
    """Distance (H, W) of each pixel to the background, in robust standard deviations, and that deviation in CIELAB.

    The background is a plane per channel, fitted to the frame twice, each time without the quarter of the
    frame that fits worst so far, so that an object which touches the border does not bend it.
    """
    rows, columns = np.indices(frame.shape, dtype=np.float32)
    terms = np.stack([np.ones_like(rows), rows / frame.shape[0] - 0.5, columns / frame.shape[1] - 0.5], axis=-1)
    frame_terms, colours = terms[frame], lab[frame]
    residual = np.linalg.norm(colours - np.median(colours, axis=0), axis=1)
    for _ in range(2):
        closest = residual <= np.quantile(residual, PLAIN_SHARE)
        plane, *_ = np.linalg.lstsq(frame_terms[closest], colours[closest], rcond=None)
        residual = np.linalg.norm(colours - frame_terms @ plane, axis=1)
    spread = float(np.median(residual) / MEDIAN_NORM)
    return np.linalg.norm(lab - terms @ plane, axis=-1) / max(spread, NOISE), spread


def _as_byte(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values from 0 up scaled to 0..255, as Otsu's method wants them."""
    return np.asarray(255 * values / max(float(values.max()), 1e-6)).astype(np.uint8)


def _largest_whole(salient: Mask) -> Mask:
    """The largest connected part, its outline smoothed, with the small holes filled that glints leave."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    smooth = cv2.morphologyEx(salient.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    smooth = cv2.morphologyEx(smooth, cv2.MORPH_OPEN, kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(smooth, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return np.zeros_like(salient)
    largest = labels == 1 + int(np.argmax(areas))
    _, gaps, gap_stats, _ = cv2.connectedComponentsWithStats((~largest).astype(np.uint8), connectivity=4)
    small = gap_stats[:, cv2.CC_STAT_AREA] < MAX_PINHOLE * largest.sum()
    return largest | (small[gaps] & ~largest)


def _is_object(mask: Mask, salient: Mask, distance: NDArray[np.float32], frame: Mask) -> bool:
    """Whether what stands out is one object on a background rather than a patch of a texture."""
    if mask.mean() < MIN_SHARE or mask[frame].mean() > MAX_FRAME_SHARE:
        return False
    outline = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0]
    solidity = cv2.contourArea(outline) / max(cv2.contourArea(cv2.convexHull(outline)), 1)
    beside = (salient & ~mask).sum() / salient.sum()
    separation = np.median(distance[mask]) - np.median(distance[~mask])
    return bool(solidity >= MIN_SOLIDITY and beside <= MAX_BESIDE and separation >= MIN_SEPARATION)
