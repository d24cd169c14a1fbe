"""Foreground segmentation: the objects on a plain background, or the whole picture if it shows a texture.

The background must show along the picture's border. Objects may touch or cross the border, as long as at least half of
it shows background.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Mask, rescale, resize
from lib.core.images import read_mask
from lib.core.records import Sample

WORKING_SIDE = 192  # px of the longer side: enough for an outline, in a few milliseconds for any picture
MIN_SIDE = 16  # px of the shorter side at that size
FRAME = 0.03  # width of the border frame that shows the background, as a share of the shorter side
PLAIN_SHARE = 0.5  # share of the frame to which the background is fitted: objects may touch the rest
STARTS = 32  # planes through three random pixels of the frame, from which the fit starts
FINALISTS = 2  # best ones, which are refined
STEPS = 4  # of the refinement
FITTED = 200  # largest number of frame pixels in the fit
QUARTER_NORM = 1.10  # first quartile of the norm of three standard normal values
NOISE = 2.0  # CIELAB units; smaller deviations are sensor noise and shading
# A frame that varies more than this (CIELAB units, robust standard deviation) is not a plain background.
MAX_FRAME_SPREAD = 8.0
# Checks that objects must pass. If one fails, the picture counts as texture: boxes that may lie anywhere do less harm
# than boxes that are restricted to a stain that was mistaken for an object.
MIN_PART = 0.1  # least area of an object, as a share of the largest
MIN_SHARE = 0.06  # least share of the picture that is object
SMALL = 0.01  # the same, where several pictures were checked: most good pictures and real defects must agree
MAX_SHARE = 0.9  # largest share of the picture
MAX_FRAME_SHARE = 0.5  # largest share of the frame
MIN_SEPARATION = 4.5  # robust standard deviations between the background and the median of the objects
MAX_GROUND = 0.25  # largest distance of the background's 0.9 quantile from its median, as a share of that separation
MIN_BIMODALITY = 0.85  # share of the variance of the (logarithmic) distance that lies between objects and background
MIN_STEP = 0.2  # least step across the outline, as a share of the separation: gradual shading has none
STEP_WIDTH = 4  # px at the working size on either side of the outline
MIN_SOLIDITY = 0.5  # least share of the convex hulls that is object, holes filled: specks and scratches have less
MAX_BESIDE = 0.1  # largest share of salient pixels outside the objects
MAX_PINHOLE = 0.01  # of the objects' area; larger holes show the background
OUTLINE_ERROR = 1.5  # px at the working size, by which an outline may be off


def object_mask(sample: Sample, image: RGB) -> Mask:
    """The objects in a picture (H, W, 3) of a category whose pictures show parts, (H, W) bool: as a person drew them,
    else as detected. All True if none is detected."""
    return foreground_mask(image, SMALL) if sample.foreground is None else read_mask(Path(sample.foreground))


def outer_mask(sample: Sample, image: RGB) -> Mask:
    """The same with all that the outlines of detected objects enclose: dark insides are easily taken for ground."""
    mask = object_mask(sample, image)
    if sample.foreground is not None:
        return mask
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    return np.asarray(cv2.drawContours(mask.astype(np.uint8), outlines, -1, 1, cv2.FILLED) > 0)


def outline_error(shape: tuple[int, ...]) -> int:
    """By how many px a detected outline may be off in a picture of shape (H, W, ...)."""
    return max(round(OUTLINE_ERROR * max(shape[:2]) / WORKING_SIDE), 2)


def foreground_mask(image: RGB, least: float = MIN_SHARE) -> Mask:
    """The objects in a picture, (H, W) bool from (H, W, 3) uint8 RGB; all True if none is detected reliably.

    least: least share of the picture that is object. A stain may be as small as a small part: only callers that check
    several pictures should pass less than MIN_SHARE.

    The background colour is fitted to the border frame, as a plane over the picture in CIELAB, since lighting is seldom
    even. Otsu's threshold on the logarithm of the distance to it gives the salient pixels. Holes that show the
    background are not part of an object; pinholes and reflections in it are.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    everything = np.ones((height, width), dtype=bool)
    if min(height, width) * scale < MIN_SIDE:  # a strip, too narrow for a frame
        return everything
    small = rescale(image, scale)
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
    """A picture in CIELAB (lightness 0 to 100), (H, W, 3), rounded to 8 bits: ten times as fast as exact values, and
    the error of half a unit is below noise."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    return lab * np.array([100 / 255, 1, 1], np.float32) - np.array([0, 128, 128], np.float32)


def _distance_to_ground(lab: NDArray[np.float32], frame: Mask) -> tuple[NDArray[np.float32], float]:
    """Distance (H, W) of each pixel to the background, in robust standard deviations, and that deviation in CIELAB.

    The background is a plane per channel, fitted to the best fitting half of the frame, so that objects at the border
    have no influence: least trimmed squares by FAST-LTS (Rousseeuw and Van Driessen 1999), which starts from planes
    through three pixels.
    """
    rows, columns = np.indices(frame.shape, dtype=np.float32)
    terms = np.stack([np.ones_like(rows), rows / frame.shape[0] - 0.5, columns / frame.shape[1] - 0.5], axis=-1)
    every = -(-int(frame.sum()) // FITTED)
    positions, colours = terms[frame][::every].astype(np.float64), lab[frame][::every].astype(np.float64)
    kept = round(PLAIN_SHARE * len(colours))

    def residuals(planes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared residuals (..., N) of all frame pixels to planes (..., 3, 3)."""
        return np.asarray(((colours - positions @ planes) ** 2).sum(axis=-1))

    def costs(planes: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.partition(residuals(planes), kept, axis=-1)[..., :kept].sum(axis=-1))

    def fitted(terms: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The planes (..., 3, 3) by least squares, regularised for pixels on one line."""
        crossed = np.swapaxes(terms, -1, -2)
        return np.asarray(np.linalg.solve(crossed @ terms + 1e-6 * np.eye(3), crossed @ values), np.float64)

    level = np.zeros((1, 3, 3))
    level[0, 0] = np.median(colours, axis=0)
    some = np.random.default_rng(0).integers(len(colours), size=(STARTS, 3))
    starts = np.concatenate([level, fitted(positions[some], colours[some])])
    finalists = starts[np.argsort(costs(starts), kind="stable")[:FINALISTS]]
    for plane in finalists:
        for _ in range(STEPS):  # each lowers the cost
            misses = residuals(plane)
            closest = misses <= max(np.partition(misses, kept)[kept], (NOISE / 2) ** 2)  # or one border may suffice
            plane[:] = fitted(positions[closest], colours[closest])
    plane = finalists[int(np.argmin(costs(finalists)))]
    spread = float(np.sqrt(np.quantile(residuals(plane), 0.25)) / QUARTER_NORM)
    return np.linalg.norm(lab - terms @ plane.astype(np.float32), axis=-1) / max(spread, NOISE), spread


def _as_byte(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values >= 0, scaled to 0..255, as OpenCV's Otsu threshold needs them."""
    return np.asarray(255 * values / max(float(values.max()), 1e-6)).astype(np.uint8)


def _whole_parts(salient: Mask) -> Mask:
    """The large connected components, with smoothed outlines; small holes, such as reflections, are filled."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    smooth = cv2.morphologyEx(salient.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    smooth = cv2.morphologyEx(smooth, cv2.MORPH_OPEN, kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(smooth, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # the background
    if not areas.any():
        return np.zeros_like(salient)
    parts = (areas >= MIN_PART * areas.max())[labels]
    _, gaps, gap_stats, _ = cv2.connectedComponentsWithStats((~parts).astype(np.uint8), connectivity=4)
    small = gap_stats[:, cv2.CC_STAT_AREA] < MAX_PINHOLE * parts.sum()
    return parts | (small[gaps] & ~parts)


def _are_objects(mask: Mask, salient: Mask, distance: NDArray[np.float32], frame: Mask) -> bool:
    """Whether the mask shows objects on a plain background rather than patches of a texture."""
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
    """Share in [0, 1] of the variance of values (H, W) that lies between mask and rest (Otsu 1979, eq. 12)."""
    share = mask.mean()
    between = share * (1 - share) * (values[mask].mean() - values[~mask].mean()) ** 2
    return float(between / max(float(values.var()), 1e-12))


def _step(distance: NDArray[np.float32], mask: Mask) -> float:
    """The step of the distance to the background across the outline of the mask, from median to median."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * STEP_WIDTH + 1,) * 2)
    inside = mask & (cv2.erode(mask.astype(np.uint8), kernel) == 0)
    outside = ~mask & (cv2.dilate(mask.astype(np.uint8), kernel) > 0)
    return float(np.median(distance[inside]) - np.median(distance[outside]))
