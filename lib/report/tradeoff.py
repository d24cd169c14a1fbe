"""How many defects are missed for how many false alarms, whatever threshold one would take."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.alarms import threshold_for
from lib.core.params import Params
from lib.core.records import LEVELS
from lib.report.cells import tenths_and_std

SHOWN = (0, 5, 10, 20)  # false alarms, of 100 good pictures, in the table
DRAWN = range(51)  # and in the drawing

TRADE_NOTE = """Of 100 pictures with a defect, how many are missed where so many of 100 good ones may be a false \
alarm: mean ± standard deviation over seeds, mean over categories. The threshold is set on the good pictures of the \
test part itself: a bound, since one from val with as many false alarms misses at least as many defects. So arms \
compare whatever their threshold is, and the price of a stricter one can be read: with, say, 16 good pictures 5 of 100 \
are none, and 10 are one. `placebo` shows how little a small difference means."""


def read_trade(params: Params, folder: Path, rates: Sequence[int]) -> pd.DataFrame:
    """Misses of 100 by detector, category, arm, seed (its rank) and false alarms of 100, the `rates` (R,).

    Columns: these and `missed`, NaN where the test part has no good picture. folder: what the stage evaluate writes.
    """
    frames = []
    for detector, category in product(params.detectors, params.dataset.categories):
        for arm in params.arms(detector):
            table = pd.read_csv(folder / detector / category / arm / LEVELS, dtype={"picture": str})
            defect, levels = table["defect"] == 1, table.drop(columns=["picture", "defect"])
            for seed, column in enumerate(levels):
                missed = missed_at(levels[column][defect].to_numpy(), levels[column][~defect].to_numpy(), rates)
                rows = pd.DataFrame({"false alarms": rates, "missed": missed})
                frames.append(rows.assign(detector=detector, category=category, arm=arm, seed=seed))
    trade = pd.concat(frames, ignore_index=True)
    arms = list(dict.fromkeys(trade["arm"]))
    orders = {"detector": params.detectors, "category": params.dataset.categories, "arm": arms}
    return trade.assign(**{name: pd.Categorical(trade[name], list(order)) for name, order in orders.items()})


def missed_at(defects: NDArray[np.floating], good: NDArray[np.floating], rates: Sequence[int]) -> NDArray[np.float64]:
    """(R,) share of defect pictures, of 100, that give no alarm at the lowest threshold at which no more than each rate
    (R,), of 100, of the good ones do; (D,) and (G,) alarm levels. NaN without either."""
    if not len(defects) or not len(good):
        return np.full(len(rates), np.nan)
    thresholds = np.array([threshold_for(good, rate / 100) for rate in rates], np.float32)
    return 100 * np.mean(defects.astype(np.float32)[:, None] < thresholds, axis=0)


def trade_table(trade: pd.DataFrame) -> pd.DataFrame:
    """Misses of 100 by detector and arm, a column for each rate of false alarms; trade: of `read_trade`."""
    means = _over_categories(trade)
    spread = means.groupby(["detector", "arm", "false alarms"], observed=True)["missed"].agg(["mean", "std"])
    cells = [tenths_and_std(mean, std) for mean, std in zip(spread["mean"], spread["std"], strict=True)]
    wide = spread.assign(cell=cells).pivot_table(
        index=["detector", "arm"], columns="false alarms", values="cell", aggfunc="first", observed=True
    )
    heads = {rate: f"at {rate} false alarms" for rate in wide.columns}
    return wide.rename(columns=heads).rename_axis(columns=None).reset_index()


def trade_curves(trade: pd.DataFrame) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By detector and arm the points (false alarms, misses) of 100, mean over categories and seeds; none undefined."""
    means = _over_categories(trade).groupby(["detector", "arm", "false alarms"], observed=True)["missed"]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in means.mean().dropna().reset_index().to_dict("records"):
        points = curves.setdefault(row["detector"], {}).setdefault(row["arm"], [])
        points.append((row["false alarms"], row["missed"]))
    return curves


def _over_categories(trade: pd.DataFrame) -> pd.DataFrame:
    """The mean over categories, seed by seed; a missing value leaves none."""
    groups = trade.groupby(["detector", "arm", "seed", "false alarms"], observed=True)["missed"]
    return groups.mean(skipna=False).reset_index()
