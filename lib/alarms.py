"""Alarms of score maps: a detected region of a least area, at a threshold that good pictures seldom reach."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from lib.core.errors import UserError
from lib.core.geometry import Mask, Scores


def marked(scores: Scores, threshold: float, min_area: int) -> Mask:
    """(H, W) bool: where scores (H, W) reach the threshold, without 8-connected regions of less than min_area px."""
    mask = np.asarray(scores >= threshold)
    if min_area <= 1 or not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area
    large[0] = False  # the background
    return np.asarray(large[labels])


def refuse_small(pixels: int, min_area: int, key: str, picture: object) -> None:
    """Raise UserError, which names key and picture, if a picture has fewer pixels than min_area: it could never be an
    alarm."""
    if pixels < min_area:
        raise UserError(f"{key}: {min_area} is more than the {pixels} pixels of {picture}: it could never be an alarm")


def alarm_level(scores: Scores, min_area: int) -> float:
    """The highest threshold at which the map (H, W) has a connected region of at least min_area px.

    Regions only grow as the threshold falls, so that it is found by bisection over the sorted scores. Raises ValueError
    if the whole map is smaller.
    """
    if min_area <= 1:
        return float(scores.max())
    ranked = np.sort(scores, axis=None)[::-1]
    if ranked.size < min_area:
        raise ValueError(f"a map of {ranked.size} pixels has no piece of {min_area}")
    low, high = min_area - 1, ranked.size - 1  # with all pixels, the region is the whole map
    while low < high:
        middle = (low + high) // 2
        if marked(scores, float(ranked[middle]), min_area).any():
            high = middle
        else:
            low = middle + 1
    return float(ranked[low])


def threshold_for(levels: Sequence[float], rate: float) -> float:
    """The lowest threshold at which at most the share `rate` of good pictures with these alarm levels is an alarm.

    It is the next float32 above the highest level that must not be an alarm. Raises ValueError without levels.
    """
    if not levels:
        raise ValueError("a rate of false alarms needs good pictures")
    ranked = np.sort(np.asarray(levels, np.float32))[::-1]
    allowed = math.floor(rate * len(ranked) + 1e-9)
    if allowed >= len(ranked):
        return float(ranked[-1])
    return float(np.nextafter(ranked[allowed], np.float32(np.inf)))
