"""When a score map is an alarm: a defect of at least so many pixels, at a threshold that good pictures seldom reach."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from lib.core.errors import UserError
from lib.core.geometry import Mask, Scores


def marked(scores: Scores, threshold: float, min_area: int) -> Mask:
    """(H, W) bool from (H, W): where scores reach the threshold, without pieces (8-connected) below min_area px."""
    mask = np.asarray(scores >= threshold)
    if min_area <= 1 or not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area
    large[0] = False  # the ground
    return np.asarray(large[labels])


def refuse_small(pixels: int, min_area: int, key: str, picture: object) -> None:
    """Raise UserError, which names key and picture, where a whole picture is smaller than what counts: it could never
    be an alarm, whatever it shows."""
    if pixels < min_area:
        raise UserError(f"{key}: {min_area} is more than the {pixels} pixels of {picture}: it could never be an alarm")


def alarm_level(scores: Scores, min_area: int) -> float:
    """The highest threshold at which the map (H, W) still has a piece of at least min_area px.

    Pieces only grow as the threshold falls, so that the ranks of the pixels can be bisected. Raises ValueError where
    the whole map is smaller.
    """
    if min_area <= 1:
        return float(scores.max())
    ranked = np.sort(scores, axis=None)[::-1]
    if ranked.size < min_area:
        raise ValueError(f"a map of {ranked.size} pixels has no piece of {min_area}")
    low, high = min_area - 1, ranked.size - 1  # with all pixels, the piece is the whole map
    while low < high:
        middle = (low + high) // 2
        if marked(scores, float(ranked[middle]), min_area).any():
            high = middle
        else:
            low = middle + 1
    return float(ranked[low])


def threshold_for(levels: Sequence[float], rate: float) -> float:
    """The lowest threshold at which at most the share `rate` of good pictures with these alarm levels is an alarm.

    Fit for float32 scores: the next value above the highest level that may not alarm. Raises ValueError without
    levels.
    """
    if not levels:
        raise ValueError("a rate of false alarms needs good pictures")
    ranked = np.sort(np.asarray(levels, np.float32))[::-1]
    allowed = math.floor(rate * len(ranked) + 1e-9)
    if allowed >= len(ranked):
        return float(ranked[-1])
    return float(np.nextafter(ranked[allowed], np.float32(np.inf)))
