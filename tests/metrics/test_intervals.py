"""Spread, intervals of paired differences, and what chance does to equal arms."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit
from scipy.stats import ttest_ind

from lib.metrics.intervals import chance_difference, mean_std, paired_difference
from tests.conftest import ROOT

MILLI = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


def test_mean_and_sample_standard_deviation_by_hand():
    assert mean_std([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3), abs=1e-15))


def test_one_value_has_no_spread_and_no_value_has_no_mean():
    assert mean_std([0.7])[0] == 0.7 and math.isnan(mean_std([0.7])[1])
    assert all(math.isnan(value) for value in mean_std([]))
    assert all(math.isnan(value) for value in paired_difference([0.7], [0.5])[1:])
    assert all(math.isnan(value) for value in paired_difference([], []))


def test_three_pairs_by_hand_with_the_tabled_quantile():
    mean, low, high = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    half = 4.302653 * 1.0 / math.sqrt(3)
    assert (mean, low, high) == (2.0, pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))


@pytest.mark.parametrize("pairs", [2, 3, 9])
def test_where_nothing_differs_five_in_a_hundred_intervals_say_that_something_does(pairs: int):
    rng = np.random.default_rng(pairs)
    intervals = [paired_difference(rng.normal(size=pairs), rng.normal(size=pairs)) for _ in range(1000)]
    assert np.mean([low > 0 or high < 0 for _, low, high in intervals]) == pytest.approx(0.05, abs=0.02)


@given(st.lists(st.tuples(MILLI, MILLI), min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_the_mean_and_as_many_standard_errors_as_students_t_says(pairs: list, level: float):
    a, b = np.array(pairs).T
    mean, low, high = paired_difference(a, b, level)
    half = stdtrit(len(pairs) - 1, (1 + level) / 2) * np.std(a - b, ddof=1) / math.sqrt(len(pairs))
    assert (mean, low, high) == pytest.approx((np.mean(a - b), mean - half, mean + half), abs=1e-9)


@given(st.lists(MILLI, min_size=2, max_size=6), st.lists(MILLI, min_size=1, max_size=6))
def test_in_one_category_two_arms_differ_by_chance_as_the_t_test_of_two_samples_says(a: list, b: list):
    interval = ttest_ind(np.array(a) - np.mean(a), np.array(b) - np.mean(b)).confidence_interval(0.95)
    assert chance_difference([[a, b]]) == pytest.approx(interval.high, abs=1e-9)


def draws(rng: np.random.Generator, scales: list[float], shared: float = 0.0) -> list[list[np.ndarray]]:
    """Two arms without any effect and a placebo, for each category; `shared`: the seed's share of the variance."""
    blocks = []
    for scale in scales:
        seed, arm, none = rng.normal(size=(3, 3)) * scale * np.sqrt([[shared], [1 - shared], [1 - shared]])
        blocks.append([seed + arm, seed + none, rng.normal(size=3) * scale])
    return blocks


def alarms(scales: list[float], shared: float = 0.0, times: int = 1500) -> float:
    """How often two equal arms differ by more than `chance_difference` says."""
    rng = np.random.default_rng(len(scales))
    runs = [draws(rng, scales, shared) for _ in range(times)]
    return float(np.mean([abs(np.mean([a - b for a, b, _ in run])) > chance_difference(run) for run in runs]))


@pytest.mark.parametrize("scales", [[1.0], [1.0, 1.0, 1.0], [0.18, 0.016, 0.12], [1.0] * 8])
def test_five_in_a_hundred_differences_of_equal_arms_are_larger_than_chance_says(scales: list[float]):
    assert alarms(scales) == pytest.approx(0.05, abs=0.018)


def test_where_seeds_act_alike_in_both_arms_fewer_are_larger():
    assert alarms([1.0, 1.0, 1.0], shared=0.8) < 0.02


def test_more_arms_that_are_equal_make_the_range_steadier():
    rng = np.random.default_rng(5)
    blocks = [[rng.normal(size=(8, 3))] for _ in range(400)]
    few, many = (np.std([chance_difference([list(arms[:count])]) for [arms] in blocks]) for count in (2, 8))
    assert many < few / 2


def test_the_mean_of_more_categories_or_of_more_seeds_scatters_less():
    arms = [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]]
    assert chance_difference([arms] * 3) < chance_difference([arms]) / math.sqrt(3)
    assert chance_difference([[arm * 2 for arm in arms]]) < chance_difference([arms])


def test_a_category_that_does_not_scatter_lends_no_degrees_of_freedom():
    arms = [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]]
    still = [[0.5, 0.5, 0.5], [0.7, 0.7, 0.7]]
    assert chance_difference([arms, still]) == pytest.approx(chance_difference([arms]) / 2)


def test_without_spread_chance_does_nothing_and_with_one_seed_nobody_knows():
    assert chance_difference([[[0.5, 0.5], [0.7, 0.7]]]) == 0.0
    assert math.isnan(chance_difference([[[0.5], [0.7]]]))
    assert math.isnan(chance_difference([[[0.5, math.nan], [0.7, 0.8]]]))


def test_what_training_imports_does_not_load_the_tests_of_scipy():
    code = "import sys, lib.metrics.intervals; sys.exit(any(m in sys.modules for m in ('scipy.stats', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_higher_level_is_wider():
    values = np.random.default_rng(2).normal(size=20)
    _, low90, high90 = paired_difference(values, np.zeros(20), level=0.90)
    _, low99, high99 = paired_difference(values, np.zeros(20), level=0.99)
    assert low99 < low90 < high90 < high99


def test_pairing_sees_a_small_gain_beneath_a_large_spread():
    rng = np.random.default_rng(3)
    base = rng.normal(scale=10, size=40)
    gain = base + 0.5 + rng.normal(scale=0.1, size=40)
    mean, low, high = paired_difference(gain, base)
    assert mean == pytest.approx(np.mean(gain - base), abs=1e-12)
    assert 0.4 < low < mean < high < 0.6
    assert paired_difference(base, gain) == pytest.approx((-mean, -high, -low))


def test_equal_arms_differ_by_exactly_nothing():
    values = np.random.default_rng(4).random(7)
    assert paired_difference(values, values) == (0.0, 0.0, 0.0)


def test_a_missing_value_is_not_hidden():
    assert all(math.isnan(value) for value in mean_std([1.0, math.nan]))
    assert all(math.isnan(value) for value in paired_difference([1.0, math.nan], [0.0, 1.0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1.0, 2.0], [1.0]), "2 values in a, 1 in b"),
        (lambda: paired_difference([1.0, 2.0], [1.0, 3.0], level=95), "level is 95"),
        (lambda: mean_std([[1.0], [2.0]]), r"shape \(2, 1\)"),
        (lambda: chance_difference([]), "at least one category with two arms"),
        (lambda: chance_difference([[[1.0, 2.0]]]), "at least one category with two arms"),
        (lambda: chance_difference([[[1.0, 2.0], []]]), "an arm has no values"),
        (lambda: chance_difference([[[1.0], [2.0]]], level=95), "level is 95"),
    ],
)
def test_errors_name_what_was_wrong(call: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        call()
