"""Exact ranking metrics of anomaly scores, per pixel and per picture: AUROC, AP, F1-max, IoU, AUPRO.

Nothing is binned and no picture is scaled by itself, so a strictly monotone rescaling of all scores changes
nothing. Scores are real numbers (infinities have a rank, NaN has none and is refused); higher means more
anomalous. A threshold predicts a defect where score >= threshold. Pixels with equal scores enter together.

Every metric here is a sum, a mean or a maximum over the *positives* of how many negatives score above them:
AP and recall only move at positives, and between two positives F1 only falls. So a `Ranking` keeps the (few)
positives, and of the negatives nothing but these counts. They are integers, which add up in any order: negatives
may come picture by picture and from several threads, and every metric is the same to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan
from threading import Lock

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-12  # relative; far above what a product of two floats is off by, far below what tells recalls apart

Counts = NDArray[np.int64]


class Ranking:
    """How the positives of a set rank among its negatives. Metrics are in [0, 1], NaN unless both classes are there.

    >>> ranking = Ranking([0.9, 0.4])
    >>> ranking.count([0.8])
    >>> ranking.count([0.1])
    >>> ranking.auroc()
    0.75
    """

    def __init__(self, positives: ArrayLike, weights: ArrayLike | None = None) -> None:
        """positives: (P,) scores of all positives, in any order. weights: (P,) what each adds to the per-region
        overlap, 1 in all, which `aupro` needs.

        Raises ValueError for a NaN score.
        """
        unordered = _floats(positives, "positives")
        order = np.argsort(unordered)
        self.positives = unordered[order]
        self.weights = None if weights is None else np.asarray(weights, np.float64)[order]
        self.negatives = 0
        # How many negatives are above, or not below, exactly the i lowest positives, i = 0 ... P.
        self._above, self._not_below = np.zeros((2, unordered.size + 1), np.int64)
        self._lock = Lock()

    def count(self, negatives: ArrayLike) -> None:
        """Count (N,) scores of negatives, in any order; all calls together see each negative of the set once.

        Raises ValueError for a NaN score.
        """
        self.count_ascending(np.sort(_floats(negatives, "negatives")))

    def count_ascending(self, ascending: NDArray[np.floating]) -> None:
        """`count` of scores (N,) that rise and are no NaN: what several rankings count need be sorted only once."""
        few = self.positives.size < ascending.size
        places = _places(ascending, self.positives) if few else _places(self.positives, ascending)[::-1]
        with self._lock:
            self.negatives += ascending.size
            for counts, place in zip((self._above, self._not_below), places, strict=True):
                if few:  # how many negatives lie between each positive and the next
                    counts[1:] += np.diff(place, append=ascending.size)
                else:
                    np.add.at(counts, place, 1)

    @cached_property
    def _tp(self) -> Counts:
        """(P,) positives that a threshold at each positive's score lets through."""
        return self.positives.size - np.searchsorted(self.positives, self.positives, side="left")

    def _fp(self) -> Counts:
        """(P,) negatives that a threshold at each positive's score lets through."""
        return _suffix_sums(self._not_below)

    @property
    def _one_class(self) -> bool:
        return not self.positives.size or not self.negatives

    def auroc(self) -> float:
        """Area under the ROC curve: the chance that a positive outranks a negative, ties count half. (Fawcett 2006.)"""
        if self._one_class:
            return nan
        return float(1 - np.mean((self._fp() + _suffix_sums(self._above)) / 2) / self.negatives)

    def average_precision(self) -> float:
        """Precision at each threshold, weighted by the recall gained there. (Davis & Goadrich 2006.)

        A step function, not interpolated, as in scikit-learn.
        """
        if self._one_class:
            return nan
        return float(np.mean(self._tp / (self._tp + self._fp())))

    def f1_max(self) -> tuple[float, float]:
        """(F1, threshold): the best F1 over all thresholds, and the highest threshold that reaches it.

        IoU = F1 / (2 - F1) rises with F1, so the same threshold gives the best IoU.
        """
        if self._one_class:
            return nan, nan
        f1 = 2 * self._tp / (self._tp + self._fp() + self.positives.size)
        best = f1.size - 1 - np.argmax(f1[::-1])  # of equal F1, the highest threshold: fewest false alarms
        return float(f1[best]), float(self.positives[best])

    def precision_at(self, recalls: ArrayLike) -> NDArray[np.float64]:
        """(R,) precision at the highest thresholds that reach each of (R,) recalls in (0, 1].

        Raises ValueError without positives.
        """
        if not self.positives.size:
            raise ValueError("without positives there is no recall")
        # 0.07 * 100 is a little more than 7, which 7 positives reach all the same.
        count = np.ceil(np.asarray(recalls) * self.positives.size * (1 - ROUNDING))
        least = self.positives.size - count.astype(int)
        tp, fp = self._tp[least], self._fp()[least]
        return tp / (tp + fp)

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Area under the per-region-overlap curve up to a false positive rate in (0, 1], divided by that rate.

        Points of the curve are joined by straight lines, also at the limit. Raises ValueError for another limit, or
        without weights. (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021.)

        It is the sum of what each positive adds: on an axis of false positive counts a positive of weight w lifts the
        curve by w, starting at the negatives above it: at once if nothing ties, else along a straight line as long as
        the tying negatives, of which `covered` lies within the limit.
        """
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit is {fpr_limit}, expected a rate in (0, 1]")
        if self.weights is None:
            raise ValueError("the ranking was made without weights")
        if self._one_class:
            return nan
        fp_limit, above = fpr_limit * self.negatives, _suffix_sums(self._above)
        ties = self._fp() - above
        room = np.maximum(fp_limit - above, 0)
        covered = np.minimum(room, ties)
        area = covered**2 / (2 * np.maximum(ties, 1)) + (room - covered)  # the triangle, then the plateau
        return float(np.dot(self.weights, area) / fp_limit)


def rank(scores: ArrayLike, labels: ArrayLike) -> Ranking:
    """The ranking of (N,) scores with their (N,) labels, bool or 0/1.

    Raises ValueError for NaN scores, other labels or unequal shapes.

    >>> rank([0.9, 0.8, 0.4, 0.1], [1, 0, 1, 0]).f1_max()
    (0.8, 0.4)
    """
    scores, labels = _checked(scores, labels, ndim=1)
    ranking = Ranking(scores[labels])
    ranking.count(scores[~labels])
    return ranking


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision in [0, 1] of (N,) scores with their (N,) labels; NaN and errors as in `rank`."""
    return rank(scores, labels).average_precision()


@dataclass(frozen=True)
class DefectPixels:
    """The positives of one picture: the scores of its defect pixels, and the share of its region that each pixel is."""

    scores: NDArray[np.floating]  # (P,)
    shares: NDArray[np.float64]  # (P,) in (0, 1], summing to the number of regions
    regions: int


def defect_pixels(scores: ArrayLike, mask: ArrayLike) -> DefectPixels:
    """The defect pixels of one picture's scores (H, W), as its mask (H, W), bool or 0/1, has them.

    Regions are 8-connected. Raises ValueError for NaN scores anywhere, other masks or unequal shapes.
    """
    scores, mask = _checked(scores, mask, ndim=2)
    if not mask.any():
        return DefectPixels(np.empty(0, scores.dtype), np.empty(0), 0)
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    region = labels[mask]
    return DefectPixels(scores[mask], 1 / np.bincount(region)[region], count - 1)  # label 0 is the background


def rank_pixels(pictures: Sequence[DefectPixels]) -> Ranking:
    """The ranking of all defect pixels of a set of pictures, in which its normal pixels are still to be counted.

    In AUPRO regions weigh the same whatever their size; the false positive rate is over all normal pixels that are
    counted, those of good pictures included.
    """
    if not pictures:  # a type whose defects no pixel shows that counts
        return Ranking([], [])
    regions = max(sum(picture.regions for picture in pictures), 1)
    shares = np.concatenate([picture.shares for picture in pictures])
    return Ranking(np.concatenate([picture.scores for picture in pictures]), shares / regions)


def _suffix_sums(counts: Counts) -> Counts:
    """(P + 1,) -> (P,): element i is the sum of all behind it."""
    return np.cumsum(counts[:0:-1])[::-1]


def _places(ascending: NDArray[np.floating], values: NDArray[np.floating]) -> tuple[Counts, Counts]:
    """(N,), (V,) rising -> (V,) how many are not above each value, and (V,) how many are below it."""
    below = np.searchsorted(ascending, values, "left")
    not_above = below.copy()
    # Few values tie, and to look only these up once more takes half of the time.
    ties = np.flatnonzero(ascending.take(below, mode="clip") == values) if ascending.size else ()
    not_above[ties] = np.searchsorted(ascending, values[ties], "right")
    return not_above, below


def _floats(scores: ArrayLike, name: str) -> NDArray[np.floating]:
    """(N,) float scores without NaN."""
    scores = np.asarray(scores)
    if scores.ndim != 1:
        raise ValueError(f"{name} have shape {scores.shape}, expected one dimension")
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    # The maximum is NaN where any score is, and needs no array of flags.
    if scores.size and np.isnan(scores.max()):
        where = np.flatnonzero(np.isnan(scores))
        raise ValueError(f"{name}: {where.size} of {scores.size} values are NaN, first at {where[0]}")
    return scores


def _checked(scores: ArrayLike, labels: ArrayLike, ndim: int) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Float scores without NaN and contiguous bool labels, both of one `ndim`-dimensional shape."""
    scores, labels = np.asarray(scores), np.ascontiguousarray(labels)
    if scores.ndim != ndim:
        raise ValueError(f"scores have shape {scores.shape}, expected {ndim} dimension{'s' * (ndim > 1)}")
    if scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape}, labels {labels.shape}: not equal")
    if labels.dtype != bool:
        other = labels[(labels != 0) & (labels != 1)]
        if other.size:
            raise ValueError(f"labels: expected bool or 0/1, found {other[0]}")
        labels = labels.astype(bool)
    return _floats(scores.ravel(), "scores").reshape(scores.shape), labels
