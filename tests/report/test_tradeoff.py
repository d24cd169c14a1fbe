"""Misses for false alarms: at which rate of the one how many of the other, over arms, seeds and categories."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.params import Params
from lib.core.runtime import write_text
from lib.report.tradeoff import LEVELS, SHOWN, missed_at, read_trade, trade_curves, trade_table
from tests.category import tiny_params

FOLDER = Path("metrics/detection")
GOOD = np.array([0.1, 0.2, 0.3, 0.4])
scores = st.lists(st.integers(0, 12), min_size=1, max_size=12).map(lambda values: np.array(values, np.float32) / 8)


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    raw = {**raw_params, "generators": ["perlin"], "detectors": ["unet"]}
    return tiny_params(raw, dataset={"categories": ["a", "b"]}, detect={"on_synthetic": []})


def write_levels(arm: str, category: str, *seeds: list[float], good: int = 4) -> None:
    """Alarm levels of as many defects as each seed has, beside those of GOOD."""
    head = ",".join(["picture", "defect", *(f"seed-{n}" for n in range(len(seeds)))])
    rows = [f"d{n},1,{','.join(map(str, row))}" for n, row in enumerate(zip(*seeds, strict=True))]
    rows += [f"g{n},0,{','.join([str(level)] * len(seeds))}" for n, level in enumerate(GOOD[:good])]
    write_text(FOLDER / "unet" / category / arm / LEVELS, "\n".join([head, *rows, ""]))


def test_a_stricter_threshold_misses_more():
    defects = np.array([0.15, 0.25, 0.35, 0.9])
    # None of four good ones: above 0.4. One of four: above 0.3, and so on; all of them: whatever reaches 0.1.
    np.testing.assert_array_equal(missed_at(defects, GOOD, [0, 24, 25, 50, 75, 100]), [75, 75, 50, 25, 0, 0])


def test_a_defect_that_scores_no_higher_than_a_good_one_that_must_not_alarm_is_missed():
    assert missed_at(np.array([0.4]), GOOD, [0]) == [100]
    assert missed_at(np.nextafter(np.array([0.4], np.float32), 1), GOOD.astype(np.float32), [0]) == [0]


@given(scores, scores, st.integers(0, 100))
def test_it_is_the_least_that_any_threshold_with_no_more_false_alarms_misses(
    defects: np.ndarray, good: np.ndarray, rate: int
):
    missed = missed_at(defects, good, [rate])
    thresholds = [*np.unique([*defects, *good]), np.inf]
    fit = [threshold for threshold in thresholds if (good >= threshold).mean() <= rate / 100]
    least = min(100 * (defects < threshold).mean() for threshold in fit)
    if rate < 100:  # at 100 all good pictures may alarm, and one takes the lowest level of theirs, not of defects
        assert missed == pytest.approx(least)
    else:
        assert missed >= least


def test_without_good_pictures_or_defects_nothing_is_told():
    assert np.isnan(missed_at(GOOD, np.array([]), [0, 5])).all() and np.isnan(missed_at(np.array([]), GOOD, [0])).all()


def test_means_are_over_categories_and_deviations_over_seeds(params: Params):
    for arm in ("none", "placebo"):
        write_levels(arm, "a", [0.9, 0.9], [0.9, 0.15])
        write_levels(arm, "b", [0.9, 0.35], [0.9, 0.35])
    table = trade_table(read_trade(params, FOLDER, SHOWN))
    assert list(table) == ["detector", "arm", *(f"at {rate} false alarms" for rate in SHOWN)]
    assert list(table["arm"]) == ["none", "placebo"], "in the order of params.yaml"
    none = table.iloc[0]
    assert none["at 0 false alarms"] == "37.5 ± 17.7", "0 and 50 of 100 in a, 50 in b: 25 and 50 by seed"
    assert none["at 20 false alarms"] == none["at 0 false alarms"], "one of four would be 25"


def test_curves_have_a_point_for_each_rate_and_fall(params: Params):
    for category in "ab":
        write_levels("none", category, [0.9, 0.15, 0.35])
        write_levels("placebo", category, [0.9, 0.9, 0.9])
    curves = trade_curves(read_trade(params, FOLDER, range(101)))
    assert list(curves) == ["unet"] and list(curves["unet"]) == ["none", "placebo"]
    rates, missed = zip(*curves["unet"]["none"], strict=True)
    assert rates == tuple(range(101)) and list(missed) == sorted(missed, reverse=True)
    assert (missed[0], missed[25], missed[75]) == (pytest.approx(200 / 3), pytest.approx(100 / 3), 0)
    assert {value for _, value in curves["unet"]["placebo"]} == {0}


def test_a_test_part_without_good_pictures_has_dashes_and_no_curve(params: Params):
    for arm in ("none", "placebo"):
        write_levels(arm, "a", [0.9, 0.9])
        write_levels(arm, "b", [0.9, 0.9], good=0)
    trade = read_trade(params, FOLDER, SHOWN)
    assert set(trade_table(trade)["at 5 false alarms"]) == {"-"} and trade_curves(trade) == {}
