"""Power against simulations of the rules themselves, SciPy's noncentral t and numbers that are known."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hessflat.analysis import power
from hessflat.analysis.claims import compare, increases, same_count, unchanged
from hessflat.analysis.decisions import Chance, conjunction
from hessflat.analysis.designs import LN_FACTOR, POINT, TAU, MeanTest, OrderTest, ShareTest, SignTest
from hessflat.analysis.evidence import against, between
from hessflat.analysis.experiment import Claim, Effect, Evidence
from hessflat.analysis.limits import on_one_side
from hessflat.analysis.power import power_by_seeds, power_of, seeds_needed, stated_effects, with_stated
from hessflat.analysis.reasons import reason_of
from hessflat.analysis.results import Run
from hessflat.analysis.statistics import estimate, estimate_of_counts, order_test
from hessflat.analysis.strata import final_metric, follows

L2 = (0.0, 1e-4, 1e-3, 1e-2)


def run(setting, seed, **metrics):
    config = {"seed": seed, "optim": {"l2": setting}}
    return Run(Path(f"runs/toy/{setting}-{seed}"), config, {"status": "done"}, [{"step": 1, **metrics}])


def table(values, metric="m"):
    """Runs whose metric is `values[setting, seed]`."""
    return [run(L2[i], seed, **{metric: value}) for i, row in enumerate(values) for seed, value in enumerate(row)]


def mean_test(spread, aim, low=0.0, high=math.inf, seeds=4, **others):
    """A design whose pilots have exactly this standard deviation."""
    values = np.arange(seeds) - (seeds - 1) / 2
    return MeanTest(estimate(values / values.std(ddof=1) * spread), low, high, aim, **others)


@pytest.mark.parametrize(("seeds", "effect", "level"), [(3, 2.0, 0.025), (10, 1.0, 0.025), (5, 1.5, 0.025 / 12)])
def test_power_of_a_mean_is_that_of_the_noncentral_t(seeds, effect, level):
    expected = stats.nct.sf(stats.t.isf(level, seeds - 1), seeds - 1, effect * math.sqrt(seeds))
    assert power_by_seeds(mean_test(1.0, effect))(seeds, level) == pytest.approx(expected, abs=2e-3)
    below = mean_test(0.1, -0.1 * effect, -math.inf, 0.0)
    assert power_by_seeds(below)(seeds, level) == pytest.approx(expected, abs=2e-3)


def test_power_of_a_mean_has_the_value_of_printed_tables():
    """Ten pairs that differ by one standard deviation, at 5 % two-sided: 0.803 (Cohen 1988)."""
    assert power_by_seeds(mean_test(3.0, 3.0))(10, 0.025) == pytest.approx(0.803, abs=2e-3)


def share_that_hold(rule, draw, tests, level=0.025):
    """How often a rule decides for a claim, of runs that are drawn anew."""
    return np.mean([rule(draw()).chance.holds <= level for _ in range(tests)])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 6])
def test_power_of_a_comparison_is_how_often_it_decides(seeds):
    generator, spread = np.random.default_rng(1), 0.5

    def draw():
        logs = generator.standard_normal((2, seeds)) * spread / math.sqrt(2) + [[0], [LN_FACTOR]]
        return table(np.exp(logs))

    design = compare(draw(), "m", high=L2[1]).chance.design
    assert (design.aim, design.unit) == (LN_FACTOR, "log")
    expected = power_by_seeds(mean_test(spread, LN_FACTOR))(seeds, 0.025)
    assert share_that_hold(lambda runs: compare(runs, "m", high=L2[1]), draw, 2_000) == pytest.approx(
        expected, abs=0.03
    )


@pytest.mark.slow
def test_power_of_a_comparison_of_accuracies_counts_the_error_of_examples_in():
    generator, spread, examples = np.random.default_rng(2), 0.008, 800

    def draw():
        values = 0.9 + generator.standard_normal((2, 6)) * spread / math.sqrt(2) + [[0], [POINT]]
        # The examples are drawn, too: they move the difference in all seeds alike.
        values[1] += generator.standard_normal() * math.sqrt((POINT + 1 / examples - POINT**2) / examples)
        runs = table(values, "test_accuracy")
        for one in runs:
            one.manifest["examples"] = {"test": examples}
        return runs

    def rule(runs):
        return compare(runs, "test_accuracy", high=L2[1], scale="difference")

    assert rule(draw()).chance.design.examples == examples
    expected = power_by_seeds(mean_test(spread, POINT, examples=examples))(6, 0.025)
    assert 0.3 < expected < 0.9
    assert share_that_hold(rule, draw, 2_000) == pytest.approx(expected, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.05, 0.15])
def test_power_of_an_equivalence_is_how_often_it_decides(spread):
    generator = np.random.default_rng(3)

    def draw():
        return table(np.exp(generator.standard_normal((2, 5)) * spread / math.sqrt(2)))

    def rule(runs):
        return unchanged(runs, lambda one: one.final("m"), "optim.l2", 0.0, L2[1], 1.25, "m")

    limit = math.log(1.25)
    expected = power_by_seeds(mean_test(spread, 0.0, -limit, limit))(5, 0.025)
    assert share_that_hold(rule, draw, 2_000) == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "seeds"), [(3, 5), (4, 3)])
def test_power_of_an_order_is_how_often_it_decides(settings, seeds):
    generator, step = np.random.default_rng(4), power.step_of_tau(settings, TAU)

    def draw():
        return table(generator.standard_normal((settings, seeds)) + step * np.arange(settings)[:, None])

    design = increases(draw(), "m").chance.design
    share = share_that_hold(lambda runs: increases(runs, "m"), draw, 1_000)
    assert power_by_seeds(design)(seeds, 0.025) == pytest.approx(share, abs=0.04)


def test_power_of_an_order_aims_at_the_ratio_of_the_paper_with_the_noise_of_the_pilots():
    generator = np.random.default_rng(5)
    logs = 0.3 * generator.standard_normal((3, 500))
    groups = [(np.arange(3)[None], np.exp(own)[None]) for own in logs.T]
    design = OrderTest(groups, 500, by_seed=True, ratio=math.exp(0.6))
    other = OrderTest(groups, 500, by_seed=True)
    # A step of 0.3, which is one standard deviation, has a τ of 0.61 among three.
    assert stats.norm.cdf(1 / math.sqrt(2)) * 4 / 3 + stats.norm.cdf(2 / math.sqrt(2)) * 2 / 3 - 1 > TAU
    for seeds in (4, 8):
        assert power_by_seeds(design)(seeds, 0.025) > power_by_seeds(other)(seeds, 0.025)
    assert power_by_seeds(OrderTest(groups[:1], 1, by_seed=True, ratio=2.0)) is None


def test_the_law_of_no_order_is_that_of_all_orders():
    inversions = [sum(a > b for a, b in itertools.combinations(order, 2)) for order in itertools.permutations(range(5))]
    np.testing.assert_allclose(power.no_order(5), np.bincount(inversions) / math.factorial(5))


def test_the_step_of_a_tau_has_it_on_average():
    generator = np.random.default_rng(6)
    values = generator.standard_normal((4_000, 4)) + power.step_of_tau(4, 0.5) * np.arange(4)
    assert np.mean([stats.kendalltau(range(4), own).statistic for own in values]) == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_power_of_an_order_of_settings_is_how_often_it_decides(shared):
    """Of pairs with τ = 0.5, of which seeds share a part that the pilots tell."""
    generator, rho = np.random.default_rng(7), math.sin(math.pi / 4)

    def pairs(*shape):
        return generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], shape)

    def draw(settings=4, seeds=3):
        values = math.sqrt(shared) * pairs(settings, 1) + math.sqrt(1 - shared) * pairs(settings, seeds)
        return [run(L2[i], seed, x=x, y=y) for i, row in enumerate(values) for seed, (x, y) in enumerate(row)]

    def rule(runs):
        return follows(
            runs, final_metric("x"), final_metric("y"), lambda one: 0, setting=lambda one: str(one.config["optim"])
        )

    pilots = [rule(draw()).chance.design.groups[0] for _ in range(200)]
    found = power.shared_by_seeds(pilots)
    assert found == pytest.approx(shared, abs=0.1)
    # The chance of one group of four at a level that it reaches, were its own share known.
    expected = np.mean(power._settings_tests((4,), 3, shared) <= 0.1)
    assert expected == pytest.approx(share_that_hold(rule, draw, 1_000, 0.1), abs=0.07)
    several = power_by_seeds(OrderTest(pilots[:40], 3, by_seed=False))
    assert several(3, 0.025) == 1.0


@pytest.mark.slow
def test_power_of_signs_is_how_often_they_decide():
    generator, spread = np.random.default_rng(8), 0.5
    values = np.array([-1, 0, 1, 0.0]) * spread / np.std([-1, 0, 1, 0.0], ddof=1)
    power_of_signs = power_by_seeds(SignTest(values.tolist(), 4, by_seed=True))

    def draw(seeds=8):
        return [run(0.0, seed, m=value) for seed, value in enumerate(TAU + spread * generator.standard_normal(seeds))]

    share = share_that_hold(lambda runs: on_one_side(runs, lambda one: one.final("m"), "m", "larger"), draw, 1_000)
    assert power_of_signs(8, 0.025) == pytest.approx(share, abs=0.06)
    assert power_of_signs(5, 0.025) == 0.0  # 2⁻⁵ is above the level
    # The groups of runs are as many, however many seeds there are.
    fixed = power_by_seeds(SignTest(values.tolist(), 4, by_seed=False))
    assert fixed(30, 0.07) == fixed(4, 0.07) > 0.0


def test_power_of_a_share_follows_the_binomial_law():
    design = ShareTest(21, 3, 0.8, aim=0.9)
    # 28 trials decide at 27 or more: the chance of those at 0.8 is 1.55 %, of 26 or more 6.1 %.
    by_hand = 0.9**28 + 28 * 0.9**27 * 0.1
    assert 0.8**28 + 28 * 0.8**27 * 0.2 < 0.025
    assert power_by_seeds(design)(4, 0.025) == pytest.approx(by_hand)
    assert power_by_seeds(ShareTest(21, 3, 0.8))(3, 0.025) == pytest.approx(1.0)
    assert power_by_seeds(ShareTest(9, 3, 0.8))(3, 0.025) == 0.0


@pytest.mark.parametrize(
    "design",
    [
        mean_test(0.5, LN_FACTOR),
        mean_test(0.3, 0.0, -LN_FACTOR, LN_FACTOR),
        OrderTest([(np.arange(3)[None], np.arange(3.0)[None])] * 4, 4, by_seed=True),
    ],
)
def test_power_rises_with_seeds_and_falls_with_the_level(design):
    of_seeds = power_by_seeds(design)
    powers = [of_seeds(seeds, 0.025) for seeds in (3, 6, 12, 24)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.95
    assert of_seeds(6, 0.025 / 10) < of_seeds(6, 0.025)


def test_the_seeds_that_are_needed_are_the_fewest_that_suffice():
    assert seeds_needed(lambda seeds: seeds / 10) == 8
    assert seeds_needed(lambda seeds: seeds / 100) is None
    assert seeds_needed(lambda seeds: 1.0) == 2


def test_a_claim_of_several_tests_has_at_least_what_bonferroni_leaves():
    chances = [against(estimate([0.0, 1.0, 0.5]), 0.0, "larger", aim, "log") for aim in (1.2, 1.4)]
    each = [power_by_seeds(chance.design)(5, 0.025) for chance in chances]
    together = power_of(conjunction(chances), 5, 1)
    assert together.alone == pytest.approx(sum(each) - 1)
    assert (together.tests, together.aim, together.seeds) == (2, f"× {math.exp(1.2):.4g}"[:6], 5)
    assert power_of(conjunction(chances), 5, 10).together < together.together


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0]])
def test_one_seed_or_equal_seeds_are_no_pilots(values):
    chance = against(estimate(values), 0.0, "larger", 1.0)
    assert power_of(chance, 5, 1) is None
    assert power_of(Chance(1.0, 1.0), 5, 1) is None


def test_counts_vary_at_least_as_roundings_do():
    chance = between(estimate_of_counts([0, 0, 0]), -1.5, 1.5)
    assert power_of(chance, 5, 1).spread == f"{math.sqrt(1 / 6):.2g}"
    runs = table([[9, 9, 9], [9, 9, 9]])
    assert same_count(runs, lambda one: one.final("m"), "optim.l2", 0.0, L2[1], 1, "m").chance.design.aim == 0


def test_the_papers_effect_is_aimed_at_wherever_its_comparison_comes():
    change = estimate([0.1, 0.2, 0.4])
    chance = against(change, 0.0, "larger", LN_FACTOR, "log")
    evidence = Evidence("", "", 3, "undecided", effect=Effect(change.interval, "ratio"), chance=chance)
    claim = Claim(
        id="a", paper="G", where="", statement="", paper_value="", decide=lambda runs: evidence, paper_effect=30
    )
    stated = stated_effects([(claim, evidence)])
    other = conjunction([against(estimate([1.0, 2.0]), 0.0, "larger", 1.0), chance])
    first, second = (test.design for test in with_stated(other, stated, None).tests)
    assert (first.origin, second.origin, second.aim) == ("least", "paper", math.log(30))
    smaller = with_stated(against(change, 0.0, "smaller", LN_FACTOR, "log"), stated, None).design
    assert smaller.aim == -math.log(30)
    order = Chance(0.1, 0.9, design=OrderTest([(np.arange(3)[None], np.arange(3.0)[None])], 1, by_seed=True))
    assert with_stated(order, stated, 1.3).design.ratio == 1.3


def judged(chance, verdict, alone=None, seeds=3, planned=None, family=1, p_holm=None):
    evidence = Evidence("", "", seeds, alone or verdict, "as it came", chance=chance)
    return reason_of(evidence, verdict, power_of(chance, planned or seeds, family), family, p_holm)


NOISY = against(estimate([0.9, -0.5, 0.4]), 0.0, "larger", LN_FACTOR, "log")
SMALL = against(estimate([0.01, -0.02, 0.02]), 0.0, "larger", LN_FACTOR, "log")
AGAINST = against(estimate([-1.0, -1.1, -0.9]), 0.0, "larger", LN_FACTOR, "log")
ORDERED = order_test([(np.arange(3)[None], np.array([[2.0, 1.0, 3.0]]))] * 3)
ORDER = Chance(ORDERED.larger, ORDERED.smaller, ORDERED.floor, OrderTest([(np.zeros((1, 3)),) * 2] * 3, 3, True))


@pytest.mark.parametrize(
    ("chance", "verdict", "says"),
    [
        (SMALL, "holds", r"^$"),
        (NOISY, "undecided", r"\] contains both × 1 and the effect aimed at, × 2; \d+ seeds would find"),
        (
            SMALL,
            "undecided",
            r"contains × 1 and leaves out the effect aimed at, × 2; if the effect is × 2, these seeds find it in",
        ),
        (AGAINST, "fails", r"^the interval \[× 0.287, × 0.472\] lies below × 1, as do 3 of 3 seeds$"),
        (conjunction([AGAINST, NOISY]), "fails", r"^one of 2 tests fails: the interval"),
        (conjunction([SMALL, NOISY]), "undecided", r"^the weakest of 2 tests: the interval"),
        (ORDER, "undecided", r"an order as strong comes by chance with p = 0.\d+; \d+ seeds would find τ 0.5"),
        (ORDER._replace(floor=0.1), "cannot decide", r"^no p is below 0.2 with so few; \d+ seeds"),
        (Chance(1.0, 1.0), "undecided", "as it came"),
    ],
)
def test_a_reason_says_what_the_numbers_give(chance, verdict, says):
    assert re.search(says, judged(chance, verdict)), judged(chance, verdict)


def test_a_reason_names_holms_correction_and_planned_seeds():
    chance = against(estimate([0.9, 1.0, 0.8]), 0.0, "larger", LN_FACTOR, "log")
    said = judged(chance, "undecided", "holds", planned=10, family=20, p_holm=0.07)
    assert said.startswith(
        "by itself it holds, but with 20 claims decided together p is 0.07; if the effect is × 2, the 10 planned seeds"
    )
    assert judged(Chance(1.0, 1.0), "undecided", seeds=1) == "one seed has no spread"


def test_a_run_that_refutes_is_named():
    beyond = against(estimate([0.1, 0.2, 5.0]), 1.0, "smaller")._replace(holds=1.0, fails=0.0)
    assert judged(beyond, "fails") == "a run is at 5, beyond 1; one such run refutes the claim"
