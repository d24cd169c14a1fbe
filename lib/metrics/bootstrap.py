"""Intervals over test pictures: metrics of resampled test parts, the same resamples for all arms that are compared.

Pictures of one capture group are no independent evidence, so groups are drawn, and never single pictures
(Field & Welsh 2007, "Bootstrapping clustered data").
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.runtime import seed_for

RESAMPLES = 500
LEVELS = 512  # thresholds of a resample's average precision, at even steps of recall: off by about 1 / LEVELS

Weights = NDArray[np.float64]  # (R, N): how often each of N pictures is in each of R resamples
Replicates = NDArray[np.float64]  # (R,): a metric of each resample


class Counts(NamedTuple):
    """Of one picture, at each of T falling thresholds: defect pixels, and normal ones, that score at least that."""

    hits: NDArray[np.float64]
    alarms: NDArray[np.float64]


def resamples(category: str, groups: Sequence[str], defects: Sequence[bool], count: int = RESAMPLES) -> Weights:
    """Draw groups with replacement; those that hold a defect, and those of good pictures alone, each in their number.

    groups, defects: of each picture. The draw depends on the category and the names of its groups alone, so that every
    arm, whenever it is judged, gets the same resamples, and no two categories do, although their groups be called
    alike: their mean is over independent draws. All are NaN where a kind has a single group: drawn alone, that is the
    same in every resample, and an interval of no width would claim certainty.
    """
    names = sorted(set(groups))
    has_defect = dict.fromkeys(names, False)
    for name, defect in zip(groups, defects, strict=True):
        has_defect[name] |= bool(defect)
    rng = np.random.default_rng(seed_for(0, "bootstrap", category, *names))
    drawn = np.zeros((count, len(names)))
    for kind in (True, False):
        members = np.array([place for place, name in enumerate(names) if has_defect[name] is kind], dtype=np.int64)
        if members.size == 1:
            drawn[:] = np.nan
        elif members.size:
            chosen = members[rng.integers(members.size, size=(count, members.size))]
            np.add.at(drawn, (np.arange(count)[:, None], chosen), 1)
    return drawn[:, [names.index(name) for name in groups]]


def levels_of(positives: NDArray[np.floating]) -> NDArray[np.floating]:
    """(T,) falling thresholds at even steps of recall of (P,) rising scores of all defect pixels."""
    places = np.linspace(0, positives.size - 1, min(LEVELS, positives.size)).round().astype(np.int64)
    return np.unique(positives[places])[::-1]


def counts_of(defect: NDArray[np.floating], normal: NDArray[np.floating], levels: NDArray[np.floating]) -> Counts:
    """The counts of a picture at falling levels (T,), from the scores of its defect and of its normal pixels."""

    def at_least(values: NDArray) -> NDArray[np.float64]:
        # The place of a value among the rising levels is the number of levels that it reaches.
        reached = np.bincount(np.searchsorted(levels[::-1], values, "right"), minlength=levels.size + 1)
        return np.cumsum(reached[:0:-1]).astype(np.float64)

    return Counts(at_least(defect), at_least(normal))


def average_precisions(weights: Weights, counts: Sequence[Counts]) -> Replicates:
    """Average precision of each resample, by the counts of its pictures; NaN without a positive.

    The step function of `Ranking.average_precision` on `LEVELS` thresholds, the lowest of which finds everything.
    """
    hits = weights @ np.stack([one.hits for one in counts])
    marks = hits + weights @ np.stack([one.alarms for one in counts])
    precision = np.divide(hits, marks, out=np.zeros_like(hits), where=marks > 0)
    gains = np.diff(hits, prepend=0, axis=1)
    total = hits.max(axis=1, initial=0)  # the last one, if there are any
    return np.divide((precision * gains).sum(axis=1), total, out=np.full(total.shape, np.nan), where=total > 0)


def aurocs(weights: Weights, scores: Sequence[float], defects: Sequence[bool]) -> Replicates:
    """Area under the ROC curve of the pictures' scores (N,) in each resample; ties count half; NaN with one class."""
    values, is_defect = np.asarray(scores, np.float64), np.asarray(defects, bool)
    above = (values[is_defect][:, None] > values[~is_defect]) + 0.5 * (values[is_defect][:, None] == values[~is_defect])
    positive, negative = weights[:, is_defect], weights[:, ~is_defect]
    wins = np.einsum("rp,pn,rn->r", positive, above, negative, optimize=True)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide(wins, pairs, out=np.full(wins.shape, np.nan), where=pairs > 0)
