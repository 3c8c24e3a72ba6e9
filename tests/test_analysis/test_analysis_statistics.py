"""Intervals, rank correlation, fits and tests, beside scipy's and beside laws that are known."""

import itertools
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
    order_test,
    power_law_exponent,
    sign_flip_test,
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


def one_group(x, y):
    return np.atleast_2d(np.asarray(x, float)), np.atleast_2d(np.asarray(y, float))


@pytest.mark.parametrize("size", [2, 4, 6])
def test_one_group_has_scipys_exact_p(size):
    generator = np.random.default_rng(size)
    for _ in range(5):
        x, y = generator.standard_normal((2, size))
        test = order_test([one_group(x, y)])
        assert test.larger == pytest.approx(stats.kendalltau(x, y, method="exact", alternative="greater").pvalue)
        assert test.smaller == pytest.approx(stats.kendalltau(x, y, method="exact", alternative="less").pvalue)
        assert test.floor == pytest.approx(1 / math.factorial(size))


def test_groups_and_blocks_and_ties_are_what_every_arrangement_gives():
    generator = np.random.default_rng(0)
    groups = [(generator.integers(0, 3, (n, k)), generator.integers(0, 3, (n, k))) for n, k in ((1, 3), (2, 4), (3, 2))]

    def concordances(x, y):
        return sum(
            int(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]))
            for a, b in zip(x, y, strict=True)
            for i, j in itertools.combinations(range(len(a)), 2)
        )

    orders = [list(itertools.permutations(range(x.shape[1]))) for x, _ in groups]
    sums = [
        sum(concordances(x, y[:, list(order)]) for (x, y), order in zip(groups, chosen, strict=True))
        for chosen in itertools.product(*orders)
    ]
    observed = sum(concordances(x, y) for x, y in groups)
    test = order_test(groups)
    assert test.larger == pytest.approx(np.mean(np.array(sums) >= observed))
    assert test.smaller == pytest.approx(np.mean(np.array(sums) <= observed))
    assert test.floor == pytest.approx(min(np.mean(np.array(sums) == end) for end in (min(sums), max(sums))))


@pytest.mark.parametrize(("settings", "seeds"), [(2, 3), (2, 5), (2, 9), (3, 3), (3, 5), (4, 3), (4, 5), (5, 3)])
def test_no_order_is_decided_in_at_most_six_percent_and_a_clear_one_is_wherever_it_can_be(settings, seeds):
    """Over every design of the experiments; two settings and three seeds cannot decide."""
    generator, decided = np.random.default_rng(settings * seeds), 0
    x = np.arange(settings)
    for _ in range(1_000):
        test = order_test([one_group(x, generator.standard_normal(settings)) for _ in range(seeds)])
        decided += min(test.larger, test.smaller) <= 0.025
    assert decided <= 60
    clear = order_test([one_group(x, x)] * seeds)
    assert clear.larger == pytest.approx(clear.floor) == pytest.approx(1 / math.factorial(settings) ** seeds)
    assert (clear.larger <= 0.025) == (math.factorial(settings) ** seeds >= 40)


def test_signs_that_are_turned_are_scipys_permutation_test():
    generator = np.random.default_rng(0)
    for size in (3, 8):
        values = generator.standard_normal(size)
        ours = sign_flip_test(values)
        theirs = stats.permutation_test(
            (values,), np.sum, permutation_type="samples", alternative="greater", n_resamples=np.inf
        )
        assert ours.larger == pytest.approx(theirs.pvalue)
        assert ours.floor == pytest.approx(2.0**-size)
    assert sign_flip_test([0.0, 0.0]).larger == 1
