"""How sure a mean is: spread over repetitions and bootstrap intervals over units.

A unit is whatever was drawn independently: a seed, a category, a test picture or, where several pictures show
one part, a group of them. A NaN among the values makes the answer NaN: a missing result is not averaged away.
"""

from math import nan

import numpy as np
from numpy.typing import ArrayLike


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """(mean, sample standard deviation, with n - 1) of (n,) values.

    The deviation is NaN for n < 2, the mean for n = 0. Raises ValueError unless there is one dimension.
    """
    values = _units(values)
    mean = float(values.mean()) if values.size else nan
    return mean, float(values.std(ddof=1)) if values.size > 1 else nan


def bootstrap_interval(values: ArrayLike, seed: int, level: float = 0.95, resamples: int = 2000) -> tuple[float, float]:
    """(low, high) of the mean of (n,) units: percentile bootstrap, the same for the same seed.

    (NaN, NaN) for n < 2, where resampling would feign certainty. With fewer than about ten units the interval
    is too narrow (it cannot leave the range of the values): show the values themselves beside it.
    Raises ValueError for a level outside (0, 1), no resamples, or values that are not one-dimensional.
    (Efron & Tibshirani 1993, chapter 13.)
    """
    values = _units(values)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a share in (0, 1) such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")
    n = values.size
    if n < 2 or np.isnan(values).any():
        return nan, nan
    rng = np.random.default_rng(seed)
    # One resample at a time: memory stays at n numbers however many units there are.
    means = [values[rng.integers(n, size=n)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, seed: int, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float, float]:
    """(mean of a - b, low, high): percentile bootstrap over units measured under both arms.

    a, b: (n,) each, the same units in the same order. Pairing removes what the arms share (a hard category,
    an unlucky seed), so a small gain shows beneath a large spread. NaN, caution and errors as in
    `bootstrap_interval`; also ValueError for unequal lengths.
    """
    a, b = _units(a), _units(b)
    if a.size != b.size:
        raise ValueError(f"{a.size} values in a, {b.size} in b: pairs need the same units in the same order")
    difference = a - b
    return (mean_std(difference)[0], *bootstrap_interval(difference, seed, level, resamples))


def _units(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values have shape {values.shape}, expected one dimension: one number per unit")
    return values
