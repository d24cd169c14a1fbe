"""How sure a mean is: spread over repetitions, intervals over pairs, and what chance alone does to two equal arms.

A unit is whatever was drawn independently: a seed, a category, a test picture or, where several pictures show
one part, a group of them. A NaN among the values makes the answer NaN: a missing result is not averaged away.
"""

import warnings
from collections.abc import Sequence
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """(mean, sample standard deviation, with n - 1) of (n,) values.

    The deviation is NaN for n < 2, the mean for n = 0. Raises ValueError unless there is one dimension.
    """
    values = _units(values)
    mean = float(values.mean()) if values.size else nan
    return mean, float(values.std(ddof=1)) if values.size > 1 else nan


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """(mean of a - b, low, high): Student's t interval over units measured under both arms.

    a, b: (n,) each, the same units in the same order. Pairing removes what the arms share (a hard category, an unlucky
    seed), so a small gain shows beneath a large spread. The t interval keeps its level down to two units where
    differences are about normal; a percentile bootstrap of three is but their range and leaves out 0 in a quarter of
    all cases where nothing differs. The interval is (NaN, NaN) for n < 2.
    Raises ValueError for unequal lengths, a level outside (0, 1) or values that are not one-dimensional.
    """
    from scipy.stats import ttest_1samp  # a second to import, and only the report needs it

    a, b = _units(a), _units(b)
    if a.size != b.size:
        raise ValueError(f"{a.size} values in a, {b.size} in b: pairs need the same units in the same order")
    _check(level)
    mean, _ = mean_std(a - b)
    if a.size < 2:
        return mean, nan, nan
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # equal differences: their interval is one point, as it should
        interval = ttest_1samp(a - b, 0.0).confidence_interval(level)
    return mean, float(interval.low), float(interval.high)


def chance_difference(blocks: Sequence[Sequence[ArrayLike]], level: float = 0.95) -> float:
    """Half the width of the range around 0 that holds a share `level` of the differences of two equal arms.

    blocks: one for each category; in it the (n,) values, one for each seed, of the two arms that are compared and of
    any others that are taken to be equal to them, such as a placebo. The difference meant is that of the two arms'
    means over seeds, averaged over the categories, each with the same weight.

    The spread over seeds is pooled over the arms of a category, which three pairs alone tell badly: with three arms of
    three seeds 6 degrees of freedom stand behind it, with three pairs 2. Categories keep their own spread, since some
    scatter ten times as much as others; the degrees of freedom of the sum are Satterthwaite's (1946, eq. 17). The
    seeds of the arms count as independent. Where they are the same and act alike in both arms, equal arms differ by
    less: the range is then too wide, never too narrow.

    0 where no seed differs from another one, NaN where every arm has but one or a value is missing.
    Raises ValueError without a category, with fewer than two arms, for an arm without values or with a wrong shape, and
    for a level outside (0, 1).

    >>> round(chance_difference([[[0.4, 0.5, 0.6], [0.5, 0.6, 0.7], [0.3, 0.4, 0.5]]]), 3)
    0.2
    """
    _check(level)
    if not blocks or any(len(arms) < 2 for arms in blocks):
        raise ValueError("expected at least one category with two arms")
    variances, freedoms = [], []
    for arms in blocks:
        values = [_units(arm) for arm in arms]
        if not all(arm.size for arm in values):
            raise ValueError("an arm has no values")
        freedom = sum(arm.size - 1 for arm in values)
        squares = sum(float(((arm - arm.mean()) ** 2).sum()) for arm in values)
        variances.append(squares / freedom * (1 / values[0].size + 1 / values[1].size) if freedom else nan)
        freedoms.append(freedom)
    total = sum(variances)
    if total == 0 or np.isnan(total):
        return float(total)
    satterthwaite = total**2 / sum(variance**2 / own for variance, own in zip(variances, freedoms, strict=True))
    return float(stdtrit(satterthwaite, (1 + level) / 2)) * sqrt(total) / len(blocks)


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a share in (0, 1) such as 0.95")


def _units(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values have shape {values.shape}, expected one dimension: one number per unit")
    return values
