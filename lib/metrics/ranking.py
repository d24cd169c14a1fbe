"""Exact ranking metrics of anomaly scores, per pixel and per picture: AUROC, AP, F1-max, IoU, AUPRO.

Nothing is binned and no picture is scaled by itself, so a strictly monotone rescaling of all scores changes
nothing. Scores are real numbers (infinities have a rank, NaN has none and is refused); higher means more
anomalous. A threshold predicts a defect where score >= threshold. Pixels with equal scores enter together.

Every metric here is a sum, a mean or a maximum over the *positives* of how many negatives score above them:
AP and recall only move at positives, and between two positives F1 only falls. So one sort of the negatives
and one search of the (few) positives in it serves all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, nan

import cv2
import numpy as np
from numpy.typing import ArrayLike


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1]: the chance that a positive outranks a negative, ties count half.

    scores: (N,); labels: (N,) bool or 0/1. NaN unless both classes are there.
    Raises ValueError for NaN scores, other labels or unequal shapes. (Fawcett 2006.)
    """
    return _auroc(_rank(*_split(scores, labels)))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision in [0, 1]: precision at each threshold, weighted by the recall gained there.

    scores: (N,); labels: (N,) bool or 0/1. NaN unless both classes are there; errors as in `auroc`.
    A step function, not interpolated, as in scikit-learn. (Davis & Goadrich 2006.)
    """
    return _average_precision(_rank(*_split(scores, labels)))


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """(F1, threshold): the best F1 in [0, 1] over all thresholds, and the highest threshold that reaches it.

    scores: (N,); labels: (N,) bool or 0/1. (NaN, NaN) unless both classes are there; errors as in `auroc`.
    IoU = F1 / (2 - F1) rises with F1, so the same threshold gives the best IoU.
    """
    return _f1_max(_rank(*_split(scores, labels)))


def f1_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """F1 in [0, 1] of `scores >= threshold`; NaN where there are no positives to find.

    scores: (N,); labels: (N,) bool or 0/1. The comparison is exact: `threshold` is not rounded to float32.
    Raises ValueError for a NaN threshold; other errors as in `auroc`.
    """
    return _f1_and_iou(*_split(scores, labels), threshold)[0]


def iou_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Intersection over union in [0, 1] of `scores >= threshold` and the labels; otherwise as `f1_at`."""
    return _f1_and_iou(*_split(scores, labels), threshold)[1]


def aupro(score_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike], fpr_limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to a false positive rate, divided by it; in [0, 1].

    score_maps: one (H, W) map per picture, sizes may differ; masks: their (H, W) truths, bool or 0/1.
    Regions are 8-connected and weigh the same whatever their size; the false positive rate is over all
    defect-free pixels of all pictures, good ones included. Points of the curve are joined by straight lines,
    also at `fpr_limit`, which lies in (0, 1]. NaN without a region or without a defect-free pixel.
    Raises ValueError for NaN scores, other masks, unequal shapes or a limit outside (0, 1].
    (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021.)
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit is {fpr_limit}, expected a rate in (0, 1]")
    positives, negatives, weights = _gather(*_checked_maps(score_maps, masks))
    # Only false positives up to the limit count: partition there, sort just the part above. Negatives that
    # tie with the one at the limit stay, for the curve rises on one straight line through all of them.
    count = negatives.size
    cut = count - ceil(fpr_limit * count)
    negatives.partition(cut)
    if cut:
        negatives = negatives[negatives >= negatives[cut]]
    order = np.argsort(positives)
    return _aupro(_rank(positives[order], negatives), weights[order], fpr_limit * count)


def pixel_and_image_metrics(
    score_maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike],
    image_scores: ArrayLike | None = None,
    threshold: float | None = None,
    fpr_limit: float = 0.3,
) -> dict[str, float]:
    """All metrics of one test set: floats in [0, 1], NaN where they are undefined.

    score_maps, masks, fpr_limit: as in `aupro`. A picture is a positive if its mask has a defect pixel; its
    score is the maximum of its map unless `image_scores`, one number per picture, says otherwise.
    Keys: image_auroc, image_ap, image_f1_max, pixel_auroc, pixel_ap, pixel_f1_max, pixel_iou_max, aupro.
    F1-max and IoU-max share one threshold, chosen on these very pictures: an upper bound, not a forecast.
    With `threshold`, chosen beforehand on validation pictures, also pixel_f1_at_val_threshold and
    pixel_iou_at_val_threshold. Errors as in `aupro`, and ValueError for a NaN threshold.
    """
    maps, truths = _checked_maps(score_maps, masks)
    if image_scores is None:
        image_scores = np.array([scores.max() for scores in maps])
    of_images = _rank(*_split(image_scores, np.array([mask.any() for mask in truths], bool), "image_scores"))

    positives, negatives, weights = _gather(maps, truths)
    order = np.argsort(positives)
    of_pixels = _rank(positives[order], negatives)
    f1, _ = _f1_max(of_pixels)
    metrics = {
        "image_auroc": _auroc(of_images),
        "image_ap": _average_precision(of_images),
        "image_f1_max": _f1_max(of_images)[0],
        "pixel_auroc": _auroc(of_pixels),
        "pixel_ap": _average_precision(of_pixels),
        "pixel_f1_max": f1,
        "pixel_iou_max": f1 / (2 - f1),
        "aupro": _aupro(of_pixels, weights[order], fpr_limit * negatives.size),
    }
    if threshold is not None:
        f1, iou = _f1_and_iou(positives, negatives, threshold)
        metrics |= {"pixel_f1_at_val_threshold": f1, "pixel_iou_at_val_threshold": iou}
    return metrics


@dataclass(frozen=True)
class _Ranking:
    """The P positives in ascending order, each with what a threshold at its own score lets through."""

    scores: np.ndarray  # (P,)
    tp: np.ndarray  # (P,) positives >= score
    fp: np.ndarray  # (P,) negatives >= score
    fp_above: np.ndarray  # (P,) negatives > score; below `fp` by the negatives that tie
    negatives: int  # how many there are

    @property
    def one_class(self) -> bool:
        return not self.scores.size or not self.negatives


def _rank(positives: np.ndarray, negatives: np.ndarray) -> _Ranking:
    """Count what lies above each positive. Sorts (P,) and (N,) in place: callers hand over copies."""
    positives.sort()  # neighbouring searches then touch neighbouring memory
    negatives.sort()
    return _Ranking(
        scores=positives,
        tp=positives.size - np.searchsorted(positives, positives, side="left"),
        fp=negatives.size - np.searchsorted(negatives, positives, side="left"),
        fp_above=negatives.size - np.searchsorted(negatives, positives, side="right"),
        negatives=negatives.size,
    )


def _auroc(ranking: _Ranking) -> float:
    if ranking.one_class:
        return nan
    return float(1 - np.mean((ranking.fp + ranking.fp_above) / 2) / ranking.negatives)


def _average_precision(ranking: _Ranking) -> float:
    if ranking.one_class:
        return nan
    return float(np.mean(ranking.tp / (ranking.tp + ranking.fp)))


def _f1_max(ranking: _Ranking) -> tuple[float, float]:
    if ranking.one_class:
        return nan, nan
    f1 = 2 * ranking.tp / (ranking.tp + ranking.fp + ranking.scores.size)
    best = f1.size - 1 - np.argmax(f1[::-1])  # of equal F1, the highest threshold: fewest false alarms
    return float(f1[best]), float(ranking.scores[best])


def _aupro(ranking: _Ranking, weights: np.ndarray, fp_limit: float) -> float:
    """Normalised area under PRO, as the sum of what each positive adds to it.

    On an axis of false positive counts a positive of weight w lifts the curve by w, starting at the negatives
    above it: at once if nothing ties, else along a straight line as long as the tying negatives, of which
    `covered` lies within the limit. weights: (P,), summing to 1, in the order of the ranking.
    """
    if ranking.one_class:
        return nan
    ties = ranking.fp - ranking.fp_above
    room = np.maximum(fp_limit - ranking.fp_above, 0)
    covered = np.minimum(room, ties)
    area = covered**2 / (2 * np.maximum(ties, 1)) + (room - covered)  # the triangle, then the plateau
    return float(np.dot(weights, area) / fp_limit)


def _f1_and_iou(positives: np.ndarray, negatives: np.ndarray, threshold: float) -> tuple[float, float]:
    if np.isnan(threshold):
        raise ValueError("threshold is NaN; choose it on a set with both classes")
    if not positives.size:
        return nan, nan
    threshold = np.float64(threshold)  # a Python float would be rounded to float32 beside float32 scores
    tp = np.count_nonzero(positives >= threshold)
    union = positives.size + np.count_nonzero(negatives >= threshold)
    return float(2 * tp / (union + tp)), float(tp / union)


def _split(scores: ArrayLike, labels: ArrayLike, name: str = "scores") -> tuple[np.ndarray, np.ndarray]:
    """(P,) scores of the positives and (N,) of the negatives, both copies."""
    scores, labels = _checked(scores, labels, name, "labels", ndim=1)
    return scores[labels], scores[~labels]


def _gather(maps: list[np.ndarray], masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) scores of all defect pixels, (N,) of all others, and (P,) the weight of each defect pixel in PRO.

    A pixel weighs 1 / (size of its 8-connected region x number of regions), so the weights sum to 1.
    """
    dtype = np.result_type(np.float32, *maps)
    negatives = np.empty(sum(mask.size - np.count_nonzero(mask) for mask in masks), dtype)
    positives, weights = [np.empty(0, dtype)], [np.empty(0)]
    filled = regions = 0
    for scores, mask in zip(maps, masks, strict=True):
        normal = scores[~mask]
        negatives[filled : filled + normal.size] = normal
        filled += normal.size
        if normal.size < mask.size:
            count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            region = labels[mask]
            positives.append(scores[mask])
            weights.append(1 / np.bincount(region)[region])
            regions += count - 1  # label 0 is the background
    return np.concatenate(positives), negatives, np.concatenate(weights) / max(regions, 1)


def _checked_maps(
    score_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if len(score_maps) != len(masks):
        raise ValueError(f"{len(score_maps)} score maps but {len(masks)} masks, expected one mask per map")
    pairs = [
        _checked(scores, mask, f"score_maps[{i}]", f"masks[{i}]", ndim=2)
        for i, (scores, mask) in enumerate(zip(score_maps, masks, strict=True))
    ]
    for i, (scores, _) in enumerate(pairs):
        if not scores.size:
            raise ValueError(f"score_maps[{i}] is empty: shape {scores.shape}")
    return [scores for scores, _ in pairs], [mask for _, mask in pairs]


def _checked(
    scores: ArrayLike, labels: ArrayLike, scores_name: str, labels_name: str, ndim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Float scores without NaN and contiguous bool labels, both of one `ndim`-dimensional shape."""
    scores, labels = np.asarray(scores), np.ascontiguousarray(labels)
    if scores.ndim != ndim:
        raise ValueError(f"{scores_name} has shape {scores.shape}, expected {ndim} dimension{'s' * (ndim > 1)}")
    if scores.shape != labels.shape:
        raise ValueError(f"{scores_name} has shape {scores.shape}, {labels_name} {labels.shape}: not equal")
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    # The maximum is NaN where any score is, and needs no array of flags.
    if scores.size and np.isnan(scores.max()):
        where = np.argwhere(np.isnan(scores))
        first = tuple(where[0].tolist())
        raise ValueError(f"{scores_name}: {len(where)} of {scores.size} values are NaN, first at {first}")
    if labels.dtype != bool:
        other = labels[(labels != 0) & (labels != 1)]
        if other.size:
            raise ValueError(f"{labels_name}: expected bool or 0/1, found {other[0]}")
        labels = labels.astype(bool)
    return scores, labels
