"""How sure a mean is: spread over repetitions, and intervals over units.

A unit is whatever was drawn independently: a seed, a category, a test picture or, where several pictures show
one part, a group of them. A NaN among the values makes the answer NaN: a missing result is not averaged away.
"""

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
    a, b = _units(a), _units(b)
    if a.size != b.size:
        raise ValueError(f"{a.size} values in a, {b.size} in b: pairs need the same units in the same order")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a share in (0, 1) such as 0.95")
    mean, std = mean_std(a - b)
    if a.size < 2:
        return mean, nan, nan
    half = float(stdtrit(a.size - 1, (1 + level) / 2)) * std / sqrt(a.size)
    return mean, mean - half, mean + half


def _units(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values have shape {values.shape}, expected one dimension: one number per unit")
    return values
