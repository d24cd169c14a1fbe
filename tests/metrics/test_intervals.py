"""Spread, and intervals of paired differences."""

import math

import numpy as np
import pytest

from lib.metrics.intervals import mean_std, paired_difference


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
    intervals = [paired_difference(rng.normal(size=pairs), rng.normal(size=pairs)) for _ in range(2000)]
    assert np.mean([low > 0 or high < 0 for _, low, high in intervals]) == pytest.approx(0.05, abs=0.015)


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
    ],
)
def test_errors_name_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
