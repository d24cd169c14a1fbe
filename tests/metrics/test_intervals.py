"""Spread and bootstrap intervals."""

import math

import numpy as np
import pytest

from lib.metrics.intervals import bootstrap_interval, mean_std, paired_difference


def test_mean_and_sample_standard_deviation_by_hand():
    assert mean_std([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3), abs=1e-15))


def test_one_value_has_no_spread_and_no_value_has_no_mean():
    assert mean_std([0.7])[0] == 0.7 and math.isnan(mean_std([0.7])[1])
    assert all(math.isnan(value) for value in mean_std([]))
    assert all(math.isnan(value) for value in bootstrap_interval([0.7], seed=0))
    assert all(math.isnan(value) for value in bootstrap_interval([], seed=0))


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_a_large_sample_gives_the_interval_of_the_normal_law():
    values = np.random.default_rng(1).normal(size=1000)
    mean, std = mean_std(values)
    low, high = bootstrap_interval(values, seed=0)
    half = 1.96 * std / math.sqrt(values.size)
    assert low == pytest.approx(mean - half, abs=0.15 * half)
    assert high == pytest.approx(mean + half, abs=0.15 * half)


def test_two_units_give_the_exact_quantiles():
    # Resampled means are 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0], seed=0) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], seed=0, level=0.4) == (0.5, 0.5)


def test_a_higher_level_is_wider():
    values = np.random.default_rng(2).normal(size=20)
    low90, high90 = bootstrap_interval(values, seed=0, level=0.90)
    low99, high99 = bootstrap_interval(values, seed=0, level=0.99)
    assert low99 < low90 < high90 < high99


def test_pairing_sees_a_small_gain_beneath_a_large_spread():
    rng = np.random.default_rng(3)
    base = rng.normal(scale=10, size=40)
    gain = base + 0.5 + rng.normal(scale=0.1, size=40)
    mean, low, high = paired_difference(gain, base, seed=0)
    assert mean == pytest.approx(np.mean(gain - base), abs=1e-12)
    assert 0.4 < low < mean < high < 0.6
    assert paired_difference(base, gain, seed=0) == pytest.approx((-mean, -high, -low), abs=0.02)


def test_equal_arms_differ_by_exactly_nothing():
    values = np.random.default_rng(4).random(7)
    assert paired_difference(values, values, seed=0) == (0.0, 0.0, 0.0)


def test_a_missing_value_is_not_hidden():
    assert all(math.isnan(value) for value in mean_std([1.0, math.nan]))
    assert all(math.isnan(value) for value in bootstrap_interval([1.0, math.nan], seed=0))
    assert all(math.isnan(value) for value in paired_difference([1.0, math.nan], [0.0, 1.0], seed=0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1.0, 2.0], [1.0], seed=0), "2 values in a, 1 in b"),
        (lambda: bootstrap_interval([1.0, 2.0], seed=0, level=95), "level is 95"),
        (lambda: bootstrap_interval([1.0, 2.0], seed=0, resamples=0), "resamples is 0"),
        (lambda: mean_std([[1.0], [2.0]]), r"shape \(2, 1\)"),
    ],
)
def test_errors_name_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
