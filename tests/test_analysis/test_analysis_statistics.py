"""Intervals, rank correlation, fits and tests, beside scipy's and beside laws that are known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hessflat.analysis.evidence import interval_text
from hessflat.analysis.names import number
from hessflat.analysis.statistics import (
    Estimate,
    decay_rate_of_shares,
    estimate,
    estimate_of_counts,
    estimate_of_ratio,
    examples_variance,
    exponential_r_squared,
    exponential_rate,
    geometric_mean,
    in_same_order,
    kendall_tau,
    order_test,
    power_law_exponent,
    share_test,
    sign_flip_test,
)


def test_tau_agrees_with_scipy_with_ties_and_is_zero_for_a_constant():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30), rng.integers(0, 5, 30)
    assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert kendall_tau([1, 2, 3], [4, 4, 4]) == 0.0


def test_an_estimate_is_scipys_t_test_and_one_value_decides_nothing():
    values = [1.0, 2.0, 4.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert estimate(values).interval[1:] == pytest.approx(tuple(expected))
    for limit in (-1.0, 0.5, 3.0):
        above, below = (stats.ttest_1samp(values, limit, alternative=side).pvalue for side in ("greater", "less"))
        assert estimate(values).above(limit) == pytest.approx(above if above < 0.5 else 1.0)
        assert estimate(values).below(limit) == pytest.approx(below if below < 0.5 else 1.0)
    alone = estimate([3.0])
    assert alone.interval == (3.0, -math.inf, math.inf)
    assert alone.above(-1e9) == alone.below(1e9) == 1.0


def test_an_interval_ends_at_a_limit_where_its_chance_is_one_in_forty():
    change = estimate([1.0, 2.0, 4.0], slack=0.3, variance=0.1)
    assert change.above(change.interval.low) == pytest.approx(0.025)
    assert change.below(change.interval.high) == pytest.approx(0.025)


def test_what_is_known_of_a_variance_is_added_with_satterthwaites_degrees():
    values, known = [0.01, 0.02, 0.04], 1e-4
    own = np.var(values, ddof=1) / 3
    found = estimate(values, variance=known)
    assert found.error == pytest.approx(math.sqrt(own + known))
    assert found.degrees == pytest.approx(2 * ((own + known) / own) ** 2)
    assert estimate(values).degrees == 2


def test_a_ratio_of_means_has_welchs_degrees():
    first, second = [1.0, 2.0, 4.0, 3.5], np.array([2.0, 5.0, 7.0, 4.0, 6.5])
    found = estimate_of_ratio(first, second.mean(), second.std(ddof=1), 5)
    assert found.mean == pytest.approx(math.log(np.mean(first) / second.mean()))
    # Welch's test of the samples, each over its mean, has these degrees of freedom.
    ours, theirs = np.array(first) / np.mean(first), second / second.mean()
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.degrees == pytest.approx(expected.df)


def test_a_share_is_tested_by_scipys_binomial_test():
    for right, trials, limit in ((9, 9, 0.5), (30, 33, 0.8), (2, 12, 0.5)):
        found = share_test(right, trials, limit)
        for side, p in (("greater", found.larger), ("less", found.smaller)):
            assert p == pytest.approx(stats.binomtest(right, trials, limit, alternative=side).pvalue)
    assert share_test(3, 9, 0.5).floor == pytest.approx(2.0**-9)


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
    clear = [[concordances(x, x[:, list(order)]) for order in own] for (x, _), own in zip(groups, orders, strict=True)]
    assert test.floor == pytest.approx(math.prod(np.mean(np.array(own) == max(own)) for own in clear))


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


def decided(estimates, chance):
    """The share of estimates that a chance of either side decides at 5 %."""
    return np.mean([min(chance(one)) <= 0.025 for one in estimates])


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_t_test_decides_where_there_is_nothing_to_find_in_at_most_six_percent(seeds):
    """Of numbers, of logarithms of ratios, and of counts that are rounded, each at the limit of the claim."""
    generator = np.random.default_rng(seeds)

    def both(limit):
        return lambda one: (one.above(limit), one.below(limit))

    plain = [estimate(values) for values in generator.standard_normal((2_000, seeds))]
    assert decided(plain, both(0.0)) <= 0.06
    for spread in (0.2, 0.5, 1.0, 3.0):
        counts = np.round(1.5 + spread * generator.standard_normal((2_000, seeds))).astype(int)
        assert decided([estimate_of_counts(one) for one in counts.tolist()], both(1.5)) <= 0.06


@pytest.mark.parametrize(("trials", "limit"), [(33, 0.8), (39, 0.8), (21, 0.8), (9, 0.5)])
def test_a_share_at_its_limit_is_decided_in_at_most_six_percent_and_every_design_can_be(trials, limit):
    generator = np.random.default_rng(trials)
    # Rows may be hard or easy; only their mean chance is at the limit.
    rows = np.clip(limit + 0.15 * np.linspace(-1, 1, trials), 0, 1)
    for chances in (np.full(trials, limit), rows + limit - rows.mean()):
        right = (generator.random((4_000, trials)) < chances).sum(axis=1)
        tests = [share_test(count, trials, limit) for count in range(trials + 1)]
        decided = np.array([min(test.larger, test.smaller) <= 0.025 for test in tests])
        assert decided[right].mean() <= 0.06
    assert share_test(trials, trials, limit).larger <= 0.025
    assert Estimate(0.0, 1.0, 0.0).above(-5.0) == 1.0


def test_one_number_in_every_seed_is_decided_by_signs():
    for seeds in (3, 6, 10):
        same = estimate([0.25] * seeds, slack=0.125)
        test = sign_flip_test(np.ones(seeds))
        assert (same.above(0.0), same.below(0.0)) == (test.larger, 1.0)
        assert (same.above(0.125), same.below(0.5)) == (1.0, test.larger)
    assert 2 * estimate([0.25] * 5).above(0.0) > 0.05 >= 2 * estimate([0.25] * 6).above(0.0)


@pytest.mark.parametrize(("seeds", "can"), [(3, False), (5, False), (6, True), (10, True)])
def test_signs_of_seeds_decide_nothing_that_is_not_there_and_need_six(seeds, can):
    generator, found = np.random.default_rng(seeds), 0
    for _ in range(1_000):
        test = sign_flip_test(np.sign(generator.standard_normal(seeds)))
        found += min(test.larger, test.smaller) <= 0.025
    assert found <= 60
    assert (sign_flip_test(np.ones(seeds)).floor <= 0.025) == can


def disagreements(generator, kind, seeds, examples, share, of_seeds=0.0):
    """By how much one of two equally good solutions is better on each example `[seeds, n]`; `share` of them differ."""
    own, common = (generator.random((rows, examples)) for rows in (seeds, 1))
    drawn = {"shared": np.repeat(common, seeds, 0), "independent": own}
    drawn["half shared"] = np.where(generator.random((1, examples)) < 0.5, common, own)
    result = (drawn[kind] < share / 2).astype(int) - (drawn[kind] > 1 - share / 2)
    for row, effect in zip(result, of_seeds * generator.standard_normal(seeds), strict=True):
        row[(row == 0) & (generator.random(examples) < abs(effect))] = np.sign(effect)
    return result


@pytest.mark.parametrize("kind", ["shared", "half shared", "independent"])
@pytest.mark.parametrize(("seeds", "share", "of_seeds"), [(3, 0.02, 0.0), (3, 0.05, 0.003), (5, 0.02, 0.003)])
def test_intervals_of_accuracies_cover_whatever_seeds_share(kind, seeds, share, of_seeds):
    generator, covered, draws = np.random.default_rng(seeds), 0, 1_000
    for _ in range(draws):
        differences = disagreements(generator, kind, seeds, 898, share, of_seeds)
        interval = estimate(differences.mean(axis=1), variance=examples_variance(differences)).interval
        covered += interval.low <= 0 <= interval.high
    assert 0.93 <= covered / draws <= 0.97


def test_the_component_of_examples_is_that_of_an_analysis_of_variance():
    generator = np.random.default_rng(0)
    differences = generator.integers(-1, 2, (1, 400)) * np.ones((3, 1), int)
    # Seeds that all differ on the same examples: the variance of a mean of 400 independent examples.
    assert examples_variance(differences) == pytest.approx(differences[0].var(ddof=1) / 400)
    alone = [examples_variance(generator.integers(-1, 2, (3, 400))) for _ in range(300)]
    assert np.mean(alone) < 0.1 * differences[0].var() / 400
    assert examples_variance(differences[:1]) == 0.0


def test_no_interval_has_width_zero():
    same = estimate([0.1, 0.1, 0.1]).interval
    assert interval_text(same, 3, number) == "the same in all 3 seeds, no interval"
    assert interval_text(estimate([0.0, 0.0]).interval, 2, number) == "the same in all 2 seeds, no interval"
    assert interval_text(estimate([1.0, 1.0001]).interval, 2, number) == "95 % interval [0.999, 1], 2 seeds"
    assert interval_text(estimate([1.0]).interval, 1, number) == "one seed, no interval"
