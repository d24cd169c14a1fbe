"""Alarms of score maps: which pictures are one, and what is marked in them, by two thresholds.

One threshold cannot do both. That of the best masks looks at pixels alone, and lets through specks in good pictures
that no mask suffers from; that of the best alarms looks at pictures, and leaves of a defect its most certain pixels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.core.errors import UserError
from lib.core.geometry import Mask, Scores

AREAS = (1, 4, 16, 64)  # pixels; the values of min_area to choose from: a speck of a score map has a few dozen at most


@dataclass(frozen=True)
class Decision:
    """threshold: the score to which masks reach. alarm_threshold: the score that some pixels of a defect reach, at
    least min_area of them in one piece, or it gives no alarm."""

    threshold: float
    alarm_threshold: float
    min_area: int = 1

    def mask(self, scores: Scores) -> Mask:
        """(H, W) -> (H, W) bool: the marked pixels; some if the picture is an alarm, none if it is not.

        Marked are the 8-connected regions of scores from `threshold` on that hold a piece which gives an alarm: a
        threshold with hysteresis (Canny 1986). Where `alarm_threshold` is the lower one, it is what of those pieces
        reaches `threshold`, or, if nothing does, all of them.
        """
        alarms = pieces(scores, self.alarm_threshold, self.min_area)
        if self.threshold == self.alarm_threshold or not alarms.any():
            return alarms
        reached = np.asarray(scores >= self.threshold)
        if self.threshold > self.alarm_threshold:
            certain = reached & alarms
            return certain if certain.any() else alarms
        count, regions = cv2.connectedComponents(reached.view(np.uint8), connectivity=8)
        holds_alarm = np.zeros(count, bool)
        holds_alarm[regions[alarms]] = True
        return np.asarray(holds_alarm[regions])

    @property
    def lowest(self) -> float:
        """The score that every marked pixel reaches."""
        return min(self.threshold, self.alarm_threshold)


def pieces(scores: Scores, threshold: float, min_area: int) -> Mask:
    """(H, W) bool: where scores (H, W) reach the threshold, without 8-connected pieces of less than min_area px."""
    mask = np.asarray(scores >= threshold)
    if min_area <= 1 or not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area
    large[0] = False  # the background
    return np.asarray(large[labels])


def refuse_small(pixels: int, min_area: int, key: str, picture: object) -> None:
    """Raise UserError, which names key and picture, if a picture has fewer pixels than min_area: it could never be an
    alarm."""
    if pixels < min_area:
        raise UserError(f"{key}: {min_area} is more than the {pixels} pixels of {picture}: it could never be an alarm")


def areas_within(masks: Iterable[Mask]) -> tuple[int, ...]:
    """Those of AREAS that the largest piece of each defect mask (H, W) has, so that no known defect is ignored; the
    smallest alone without any mask."""
    sizes = [largest_piece(mask) for mask in masks]
    return tuple(area for area in AREAS if area == AREAS[0] or (sizes and area <= min(sizes)))


def largest_piece(mask: Mask) -> int:
    """The pixels of the largest 8-connected piece of a mask (H, W); 0 if it is empty."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int(stats[1:, cv2.CC_STAT_AREA].max(initial=0))


def alarm_level(scores: Scores, min_area: int) -> float:
    """The highest alarm threshold at which the map (H, W) is an alarm: has a connected piece of at least min_area px.

    Pieces only grow as the threshold falls, so that it is found by bisection over the sorted scores, of which the
    highest few nearly always suffice. Raises ValueError if the whole map is smaller.
    """
    if min_area <= 1:
        return float(scores.max())
    if scores.size < min_area:
        raise ValueError(f"a map of {scores.size} pixels has no piece of {min_area}")
    low, count, ranked = min_area - 1, min_area, _highest(scores, min_area)
    while not pieces(scores, float(ranked[-1]), min_area).any():  # with all pixels, the piece is the whole map
        low, count = count, min(2 * count, scores.size)
        ranked = _highest(scores, count)
    high = count - 1
    while low < high:
        middle = (low + high) // 2
        if pieces(scores, float(ranked[middle]), min_area).any():
            high = middle
        else:
            low = middle + 1
    return float(ranked[low])


def _highest(scores: Scores, count: int) -> NDArray[np.float32]:
    """(count,) the highest scores of a map (H, W), from high to low."""
    return np.sort(np.partition(scores, scores.size - count, axis=None)[scores.size - count :])[::-1]


def threshold_for(levels: ArrayLike, rate: float) -> float:
    """The lowest threshold at which at most the share `rate` of good pictures with these alarm levels is an alarm.

    It is the next float32 above the highest level that must not be an alarm. Raises ValueError without levels.
    """
    ranked = np.sort(np.asarray(levels, np.float32))[::-1]
    if not ranked.size:
        raise ValueError("a rate of false alarms needs good pictures")
    allowed = math.floor(rate * len(ranked) + 1e-9)
    if allowed >= len(ranked):
        return float(ranked[-1])
    return float(np.nextafter(ranked[allowed], np.float32(np.inf)))


def balanced_threshold(defects: ArrayLike, good: ArrayLike) -> float:
    """The threshold at which the share of defect pictures without an alarm and that of good ones with one have the
    smallest sum (Youden 1950), (D,) and (G,) alarm levels.

    Of several, the lowest. It lies halfway between the two levels that it separates, as neither of them is likely to be
    met exactly again; at the lowest of all if every picture is to be an alarm. Shares and not counts, since defects are
    far more frequent among known pictures than on a line. Raises ValueError without pictures of either kind.

    >>> balanced_threshold([0.5, 0.75], [0.125, 0.25])
    0.375
    """
    defects, good = (np.sort(np.asarray(levels, np.float32), axis=None) for levels in (defects, good))
    if not defects.size or not good.size:
        raise ValueError("a balance of misses and false alarms needs pictures with and without defects")
    levels = np.unique(np.concatenate([defects, good]))
    missed, quiet = (np.searchsorted(one, levels) for one in (defects, good))
    best = int(np.argmin(missed * good.size + (good.size - quiet) * defects.size))
    if best == 0:
        return float(levels[0])
    below, above = levels[best - 1], levels[best]
    middle = np.float32((float(below) + float(above)) / 2)
    return float(middle if middle > below else above)  # between two neighbours there is nothing
