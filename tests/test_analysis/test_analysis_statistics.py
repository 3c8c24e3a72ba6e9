"""Intervals, rank correlation, fits and tests, beside scipy's and beside laws that are known."""

import math

import numpy as np
import pytest
from scipy import stats

from hessflat.analysis.statistics import (
    Interval,
    decay_rate_of_shares,
    exponential_r_squared,
    exponential_rate,
    geometric_mean,
    in_same_order,
    kendall_tau,
    mean_interval,
    power_law_exponent,
    welch_p_value,
)


def test_tau_agrees_with_scipy_with_ties_and_is_zero_for_a_constant():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30), rng.integers(0, 5, 30)
    assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert kendall_tau([1, 2, 3], [4, 4, 4]) == 0.0


def test_interval_agrees_with_scipy_and_one_value_decides_nothing():
    values = [1.0, 2.0, 4.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values)[1:] == pytest.approx(tuple(expected))
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)


def test_an_interval_of_accuracies_counts_examples_in():
    interval = Interval(0.02, 0.01, 0.03)
    assert interval.with_examples(None) == interval
    wider = interval.with_examples(900)
    # By hand: 1.96 sqrt(0.02 · 0.98 / 900) = 0.0091467; with half width 0.01, sqrt(0.01² + 0.0091467²) = 0.013552.
    assert wider == pytest.approx((0.02, 0.02 - 0.013552, 0.02 + 0.013552), abs=1e-6)


def test_welchs_test_is_that_of_two_samples():
    first, second = [1.0, 2.0, 4.0, 3.5], [2.0, 5.0, 7.0, 4.0, 6.5]
    expected = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert welch_p_value(first, np.mean(second), np.std(second, ddof=1), 5) == pytest.approx(expected)


def test_fits_find_the_law():
    x = np.array([1.0, 3.0, 10.0, 40.0])
    assert power_law_exponent(x, 7 * x**-1.5) == pytest.approx(-1.5)
    assert exponential_rate(x, 7 * np.exp(-0.2 * x)) == pytest.approx(-0.2)
    assert exponential_r_squared(x, 7 * np.exp(-0.2 * x)) == pytest.approx(1)
    noisy = np.exp(-0.2 * x + np.array([0.5, -1.0, 1.0, 0.0]))
    fit = stats.linregress(x, np.log(noisy))
    assert exponential_rate(x, noisy) == pytest.approx(fit.slope)
    assert exponential_r_squared(x, noisy) == pytest.approx(fit.rvalue**2)
    shares = stats.linregress(np.log(x), np.log(noisy)).slope
    assert power_law_exponent(x, noisy) == pytest.approx(shares)


def test_a_rate_of_decay_is_found_in_counts():
    sizes = np.array([1, 2, 4, 8, 16])
    assert decay_rate_of_shares(sizes, np.exp(-0.3 * sizes), 1000 // sizes) == pytest.approx(0.3)
    samples = np.full(5, 20_000)
    counted = np.random.default_rng(0).binomial(samples, np.exp(-0.3 * sizes)) / samples
    assert decay_rate_of_shares(sizes, counted, samples) == pytest.approx(0.3, rel=0.02)


def test_geometric_mean_agrees_with_scipy_and_survives_zero():
    assert geometric_mean([np.array([1.0, 4.0]), np.array(2.0)]) == pytest.approx(stats.gmean([1.0, 4.0, 2.0]))
    assert geometric_mean([np.array([0.0, 1.0])]) == pytest.approx(np.finfo(float).tiny ** 0.5)


def test_pairs_of_samples_are_ordered_as_the_means_are():
    first, second = np.array([1.0, 5.0]), np.array([4.0, 6.0])
    assert in_same_order(first, second, paired=True) == [True, True]
    assert in_same_order(first, second, paired=False) == [True, True, False, True]
