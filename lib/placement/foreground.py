"""Where the objects are in a picture: all of it for a texture, else what stands out from a plain ground.

The ground shows at the picture's border. Parts may touch the border or cross it, as long as at least half of the border
shows ground.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Mask, resize

WORKING_SIDE = 192  # px of the longer side: enough for an outline, and a few milliseconds whatever the picture's size
MIN_SIDE = 16  # px of the shorter side at that size
FRAME = 0.03  # width of the border frame that teaches the ground, as a share of the shorter side
PLAIN_SHARE = 0.5  # of the frame that the ground is fitted to: objects may touch the rest
STARTS = 32  # planes through three pixels of the frame each, from which the fit begins
FINALISTS = 2  # of them are fitted to the end
STEPS = 4  # in which that is done
FITTED = 200  # pixels of the frame at most that the ground is fitted to
QUARTER_NORM = 1.10  # first quartile of the length of three normal values of unit variance
NOISE = 2.0  # CIELAB units below which no ground is told apart from sensor noise and shading
# A frame that varies more than this (CIELAB units, robust standard deviation) is no plain ground.
MAX_FRAME_SPREAD = 8.0
# The checks that objects must pass; where one fails the picture counts as texture, because boxes that may lie
# anywhere do less harm than boxes that are kept on a stain which was taken for an object.
MIN_PART = 0.1  # of the largest object's area; what is smaller is a speck
MIN_SHARE = 0.06  # of the picture must be object
MAX_SHARE = 0.9
MAX_FRAME_SHARE = 0.5
MIN_SEPARATION = 4.5  # robust standard deviations between the ground and the median of the objects
MAX_GROUND = 0.25  # of that separation may lie between the ground and its own 0.9 quantile
MIN_BIMODALITY = 0.85  # of the variance of the (logarithmic) distance to the ground lies between objects and ground
MIN_STEP = 0.2  # of the separation lies across the outline: light fades without one
STEP_WIDTH = 4  # px at the working size to either side of the outline
MIN_SOLIDITY = 0.5  # of their convex hulls must be object, bores filled: specks and scratches are scattered
MAX_BESIDE = 0.1  # of what stands out may lie outside of the objects
MAX_PINHOLE = 0.01  # of the objects' area; larger holes in them show the ground


def foreground_mask(image: RGB, least: float = MIN_SHARE) -> Mask:
    """The objects in a picture, (H, W) bool from (H, W, 3) uint8 RGB; all True where none can be told for sure.

    least: the share of the picture that must be object. A stain is as small as a small part: who asks for less than
    MIN_SHARE has other pictures that agree.

    A border frame gives the colour of the ground, as a plane over the picture in CIELAB (lighting is seldom even);
    Otsu's threshold on the logarithm of the distance to it gives what stands out. Bores and gaps that show the ground
    are not part of an object, pinholes and glints within it are.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    everything = np.ones((height, width), dtype=bool)
    if min(height, width) * scale < MIN_SIDE:  # a strip: no frame to speak of
        return everything
    small = resize(image, round(width * scale), round(height * scale))
    lab = np.asarray(cv2.GaussianBlur(cielab(small), (0, 0), 1.0), np.float32)
    frame = np.ones(small.shape[:2], dtype=bool)
    edge = max(2, round(FRAME * min(small.shape[:2])))
    frame[edge:-edge, edge:-edge] = False

    distance, spread = _distance_to_ground(lab, frame)
    if spread > MAX_FRAME_SPREAD:
        return everything
    levels = _as_byte(np.log1p(distance))
    salient = levels > cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
    mask = _whole_parts(salient)
    if mask.mean() < least or not _are_objects(mask, salient, distance, frame):
        return everything
    return resize(mask, width, height)


def cielab(image: RGB) -> NDArray[np.float32]:
    """A picture's colours in CIELAB (lightness 0 to 100), (H, W, 3), rounded to 8 bits: ten times as fast as exactly,
    and half a unit is less than noise."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    return lab * np.array([100 / 255, 1, 1], np.float32) - np.array([0, 128, 128], np.float32)


def _distance_to_ground(lab: NDArray[np.float32], frame: Mask) -> tuple[NDArray[np.float32], float]:
    """Distance (H, W) of each pixel to the ground, in robust standard deviations, and that deviation in CIELAB.

    The ground is a plane per channel through that half of the frame which fits one best, so that objects that touch
    the border do not bend it: least trimmed squares, from planes through three pixels each, as in FAST-LTS
    (Rousseeuw and Van Driessen 1999).
    """
    rows, columns = np.indices(frame.shape, dtype=np.float32)
    terms = np.stack([np.ones_like(rows), rows / frame.shape[0] - 0.5, columns / frame.shape[1] - 0.5], axis=-1)
    every = -(-int(frame.sum()) // FITTED)
    known, colours = terms[frame][::every].astype(np.float64), lab[frame][::every].astype(np.float64)
    kept = round(PLAIN_SHARE * len(colours))

    def residuals(planes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared, of planes (..., 3, 3): (..., N) for all frame pixels."""
        return np.asarray(((colours - known @ planes) ** 2).sum(axis=-1))

    def costs(planes: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.partition(residuals(planes), kept, axis=-1)[..., :kept].sum(axis=-1))

    def fitted(terms: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The planes (..., 3, 3) by least squares; of three pixels in a row, or one twice, any that fits."""
        crossed = np.swapaxes(terms, -1, -2)
        return np.asarray(np.linalg.solve(crossed @ terms + 1e-6 * np.eye(3), crossed @ values), np.float64)

    level = np.zeros((1, 3, 3))
    level[0, 0] = np.median(colours, axis=0)
    some = np.random.default_rng(0).integers(len(colours), size=(STARTS, 3))
    starts = np.concatenate([level, fitted(known[some], colours[some])])
    finalists = starts[np.argsort(costs(starts), kind="stable")[:FINALISTS]]
    for plane in finalists:
        for _ in range(STEPS):  # each lowers the cost
            misses = residuals(plane)
            closest = misses <= max(np.partition(misses, kept)[kept], (NOISE / 2) ** 2)  # not one border's alone
            plane[:] = fitted(known[closest], colours[closest])
    plane = finalists[int(np.argmin(costs(finalists)))]
    spread = float(np.sqrt(np.quantile(residuals(plane), 0.25)) / QUARTER_NORM)
    return np.linalg.norm(lab - terms @ plane.astype(np.float32), axis=-1) / max(spread, NOISE), spread


def _as_byte(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values from 0 up scaled to 0..255, as Otsu's method wants them."""
    return np.asarray(255 * values / max(float(values.max()), 1e-6)).astype(np.uint8)


def _whole_parts(salient: Mask) -> Mask:
    """The large connected parts, their outlines smoothed, with the small holes filled that glints leave."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    smooth = cv2.morphologyEx(salient.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    smooth = cv2.morphologyEx(smooth, cv2.MORPH_OPEN, kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(smooth, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # what does not stand out
    if not areas.any():
        return np.zeros_like(salient)
    parts = (areas >= MIN_PART * areas.max())[labels]
    _, gaps, gap_stats, _ = cv2.connectedComponentsWithStats((~parts).astype(np.uint8), connectivity=4)
    small = gap_stats[:, cv2.CC_STAT_AREA] < MAX_PINHOLE * parts.sum()
    return parts | (small[gaps] & ~parts)


def _are_objects(mask: Mask, salient: Mask, distance: NDArray[np.float32], frame: Mask) -> bool:
    """Whether what stands out are objects on a plain ground rather than patches of a texture."""
    if not mask.any() or mask.mean() > MAX_SHARE or mask[frame].mean() > MAX_FRAME_SHARE:
        return False
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    hulls = sum(cv2.contourArea(cv2.convexHull(outline)) for outline in outlines)
    solidity = sum(cv2.contourArea(outline) for outline in outlines) / max(hulls, 1)
    beside = (salient & ~mask).sum() / salient.sum()
    ground = float(np.median(distance[~mask]))
    separation = float(np.median(distance[mask])) - ground
    step = _step(distance, mask)
    uneven = float(np.quantile(distance[~mask], 0.9)) - ground
    return bool(
        solidity >= MIN_SOLIDITY
        and beside <= MAX_BESIDE
        and separation >= MIN_SEPARATION
        and step >= MIN_STEP * separation
        and uneven <= MAX_GROUND * separation
        and _bimodality(np.log1p(distance), mask) >= MIN_BIMODALITY
    )


def _bimodality(values: NDArray[np.float32], mask: Mask) -> float:
    """Share in [0, 1] of the variance of the values (H, W) that lies between mask and rest (Otsu 1979, eq. 12)."""
    share = mask.mean()
    between = share * (1 - share) * (values[mask].mean() - values[~mask].mean()) ** 2
    return float(between / max(float(values.var()), 1e-12))


def _step(distance: NDArray[np.float32], mask: Mask) -> float:
    """How much the distance to the ground rises across the outline of the mask, from median to median."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * STEP_WIDTH + 1,) * 2)
    inside = mask & (cv2.erode(mask.astype(np.uint8), kernel) == 0)
    outside = ~mask & (cv2.dilate(mask.astype(np.uint8), kernel) > 0)
    return float(np.median(distance[inside]) - np.median(distance[outside]))
