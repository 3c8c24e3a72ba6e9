"""How often a rule decides for a claim, where the effect is there that it should find: its power.

Runs that are stored are the pilots: of them is taken how far seeds differ, not how large an effect is. The effect is
the one that the paper states, or a least one (`designs`). What is computed is the chance that the claim holds

- of a mean, by quadrature of the law of Student's t with the pilots' standard deviation, examples counted in;
- of an order within seeds, from its exact law under no order and the law of values that are shifted by equal steps and
  have Gaussian noise: as much noise as gives τ, or that of the pilots where the paper states a ratio;
- of an order of settings with all their seeds, by permutation tests of Gaussian pairs with τ, of which seeds of one
  setting share as large a part as in the pilots;
- of signs, by tests of Gaussian values with the pilots' standard deviation;
- of a share, by the binomial law.

A claim of several tests holds where each does: by Bonferroni's inequality with a chance of at least 1 less the sum of
those that they do not. The level of a test is 2.5 % on the claimed side, or, where the m claims of an experiment are
decided together, Holm's first and worst, 2.5 % / m. A standard deviation of few seeds is itself uncertain: with three
seeds by a factor of 0.5 to 6.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from hessflat.analysis.decisions import LEVEL, Chance
from hessflat.analysis.designs import TAU, Design, MeanTest, OrderTest, ShareTest, SignTest
from hessflat.analysis.evidence import exp_or_inf, signed
from hessflat.analysis.experiment import Claim, Evidence
from hessflat.analysis.names import number
from hessflat.analysis.statistics import least_variance, order_test, satterthwaite, turned_signs

ENOUGH = 0.8
MOST_SEEDS = 30
_QUANTILES = 400  # of the law of a variance
_DRAWS = 20_000  # of the order of one seed
_TESTS = 300  # simulated

PowerOfSeeds = Callable[[int, float], float]  # of the number of seeds and the level of one side


class Power(NamedTuple):
    """The power of a claim at the seeds that are planned, and how many it takes to have `ENOUGH`.

    `aim` and `spread` are those of the test that has the least, of `tests`. `alone` is at 5 %, `together` at Holm's
    worst level, and `needed` for that; None where `MOST_SEEDS` do not suffice.
    """

    aim: str
    origin: str
    spread: str
    tests: int
    seeds: int
    alone: float
    together: float
    needed: int | None


def power_of(chance: Chance, seeds: int, family: int) -> Power | None:
    """The power of a claim with so many seeds, among a family of claims; None where a test has no pilots.

    Pilots are values of two seeds that differ.
    """
    designs = [test.design for test in chance.tests if test.design]
    powers = [power for design in designs if (power := power_by_seeds(design))]
    if len(powers) < len(chance.tests):
        return None

    def together(count: int, level: float) -> float:
        return max(0.0, 1 - sum(1 - power(count, level) for power in powers))

    alone, worst = LEVEL / 2, LEVEL / 2 / family
    least = designs[int(np.argmin([power(seeds, worst) for power in powers]))]
    assert least
    aim, origin, spread = aim_text(least), aim_origin(least), spread_text(least)
    reached = together(seeds, worst)
    return Power(
        aim, origin, spread, len(designs), seeds, together(seeds, alone), reached,
        seeds_needed(lambda count: together(count, worst)),
    )  # fmt: skip


def seeds_needed(power: Callable[[int], float]) -> int | None:
    """The smallest number of seeds with `ENOUGH` power, which does not fall with it; None above `MOST_SEEDS`."""
    low, high = 1, MOST_SEEDS
    if power(high) < ENOUGH:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= ENOUGH else (middle, high)
    return high


Stated = Mapping[tuple[float, ...], float]


def stated_effects(judged: Iterable[tuple[Claim, Evidence]]) -> Stated:
    """The effects that a paper states of what claims compare, by the values of the seeds.

    Other claims of an experiment may rest on the same comparison.
    """
    stated = {}
    for claim, evidence in judged:
        if claim.paper_effect is None or not evidence.effect or not evidence.chance:
            continue
        size = math.log(claim.paper_effect) if evidence.effect.scale == "ratio" else claim.paper_effect
        for test in evidence.chance.tests:
            design = test.design
            if isinstance(design, MeanTest) and design.estimate.interval == evidence.effect.interval:
                stated[design.estimate.values] = size
    return stated


def with_stated(chance: Chance, stated: Stated, ratio: float | None) -> Chance:
    """The chance of a claim whose tests aim at what the paper states; `ratio` is that of the claim."""
    if chance.parts:
        return chance._replace(parts=tuple(with_stated(part, stated, ratio) for part in chance.parts))
    design = chance.design
    if isinstance(design, OrderTest) and design.by_seed and ratio:
        design = design._replace(ratio=ratio)
    elif isinstance(design, MeanTest) and (aim := stated.get(design.estimate.values)):
        # The direction of a claim on the better solution depends on which one it is; its power does not.
        design = design._replace(aim=aim if design.low < aim < design.high else -aim, origin="paper")
    return chance._replace(design=design)


def power_by_seeds(design: Design) -> PowerOfSeeds | None:
    """The power of a test by the number of seeds and the level of one side; None where it has no pilots."""
    if isinstance(design, MeanTest):
        return _of_mean(design)
    if isinstance(design, OrderTest):
        return _of_order(design) if design.by_seed else _of_settings(design)
    return _of_signs(design) if isinstance(design, SignTest) else _of_share(design)


def _of_mean(design: MeanTest) -> PowerOfSeeds | None:
    estimate = design.estimate
    if len(estimate.values) < 2 or not estimate.spread:
        return None

    def power(seeds: int, level: float) -> float:
        if seeds < 2:
            return 0.0
        between = estimate.spread**2 / seeds
        known = least_variance(design.aim, design.examples) if design.examples else estimate.variance
        found = between * _variances(seeds - 1)
        reach = estimate.slack + np.sqrt(found + known) * stats.t.isf(level, satterthwaite(seeds, found, known))
        # The mean is within both limits by as much as the interval reaches.
        ends = [
            stats.norm.cdf((end - design.aim) / math.sqrt(between + known))
            for end in (design.high - reach, design.low + reach)
        ]
        return float(np.mean(np.maximum(ends[0] - ends[1], 0)))

    return power


@cache
def _variances(degrees: int) -> np.ndarray:
    """Quantiles, at equal distances, of an estimated variance over the true one."""
    values: np.ndarray = stats.chi2.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, degrees) / degrees
    return values


def _of_order(design: OrderTest) -> PowerOfSeeds | None:
    sizes = Counter(x.shape[1] for x, _ in design.groups)
    noise = _noise(design) if design.ratio else None
    if design.ratio and not noise:
        return None

    def power(seeds: int, level: float) -> float:
        none, shifted = np.ones(1), np.ones(1)
        for size, count in sizes.items():
            if design.ratio and noise:
                step = abs(math.log(design.ratio)) / (size - 1) / noise
            else:
                step = step_of_tau(size, TAU)
            groups = max(1, round(count * seeds / design.seeds))
            none = np.convolve(none, _power_of_law(no_order(size), groups))
            shifted = np.convolve(shifted, _power_of_law(_order_of_steps(size, step), groups))
        rejected = np.cumsum(none) <= level
        return float(shifted[rejected].sum())

    return power


def no_order(size: int) -> np.ndarray:
    """The law of the number of inversions, from 0 on, of `size` values in any order (Kendall 1938)."""
    law = np.ones(1)
    for place in range(2, size + 1):
        law = np.convolve(law, np.full(place, 1 / place))
    return law


def step_of_tau(size: int, tau: float) -> float:
    """The step, in standard deviations of the noise, between neighbours of `size` values that have this τ with their
    order on average.
    """
    apart = np.arange(1, size)
    return float(
        optimize.brentq(
            lambda step: np.average(2 * stats.norm.cdf(step * apart / math.sqrt(2)) - 1, weights=size - apart) - tau,
            0.0,
            20.0,
        )
    )


@cache
def _order_of_steps(size: int, step: float) -> np.ndarray:
    """The law of the number of inversions of values that are steps apart, and have noise."""
    values = np.random.default_rng(0).standard_normal((_DRAWS, size)) + step * np.arange(size)
    first, second = np.triu_indices(size, 1)
    inversions = (values[:, first] > values[:, second]).sum(axis=1)
    law: np.ndarray = np.bincount(inversions, minlength=len(first) + 1) / _DRAWS
    return law


def _power_of_law(law: np.ndarray, count: int) -> np.ndarray:
    """The law of a sum of so many numbers of one law."""
    total = np.ones(1)
    while count:
        if count % 2:
            total = np.convolve(total, law)
        law, count = np.convolve(law, law), count // 2
    return total


def _noise(design: OrderTest) -> float:
    """The standard deviation over seeds of logarithms, seeds and settings taken out; 0 where there is none."""
    most = max(y.shape[1] for _, y in design.groups)
    logs = np.log(np.concatenate([y for _, y in design.groups if y.shape[1] == most]))
    rest = logs - logs.mean(axis=0) - logs.mean(axis=1, keepdims=True) + logs.mean()
    degrees = (logs.shape[0] - 1) * (logs.shape[1] - 1)
    return math.sqrt(float((rest**2).sum()) / degrees) if degrees else 0.0


def _of_settings(design: OrderTest) -> PowerOfSeeds | None:
    sizes = tuple(x.shape[1] for x, _ in design.groups)
    if min(x.shape[0] for x, _ in design.groups) < 2:
        return None
    shared = shared_by_seeds(design.groups)
    return lambda seeds, level: float(np.mean(_settings_tests(sizes, seeds, round(shared, 2)) <= level))


def shared_by_seeds(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The part of the variance that seeds share: the intraclass correlation of normal scores `[seeds, settings]`."""
    parts = []
    for side in (side for group in groups for side in group):
        scores = stats.norm.ppf((stats.rankdata(side, axis=1) - 0.5) / side.shape[1])
        seeds = len(scores)
        means = scores.mean(axis=0)
        of_settings = seeds * means.var(ddof=1)
        rest = ((scores - means) ** 2).sum() / (scores.size - scores.shape[1])
        parts.append((of_settings - rest) / (of_settings + (seeds - 1) * rest))
    return float(np.clip(np.mean(parts), 0, 1))


@cache
def _settings_tests(sizes: tuple[int, ...], seeds: int, shared: float) -> np.ndarray:
    """The one-sided p of simulated groups of so many settings, of pairs with τ = `TAU`."""
    generator = np.random.default_rng(0)
    correlation = math.sin(math.pi * TAU / 2)  # of a Gaussian pair with this τ

    def pairs(*shape: int) -> np.ndarray:
        first, other = generator.standard_normal((2, *shape))
        return np.stack([first, correlation * first + math.sqrt(1 - correlation**2) * other])

    found = []
    for _ in range(_TESTS):
        groups = [
            tuple(math.sqrt(shared) * pairs(1, size) + math.sqrt(1 - shared) * pairs(seeds, size)) for size in sizes
        ]
        found.append(order_test([(x, y) for x, y in groups]).larger)
    return np.array(found)


def _of_signs(design: SignTest) -> PowerOfSeeds | None:
    spread = float(np.std(design.values, ddof=1)) if len(design.values) > 1 else 0.0
    if not spread:
        return None

    def power(seeds: int, level: float) -> float:
        count = seeds if design.by_seed else len(design.values)
        return float(np.mean(_sign_tests(count, spread / TAU) <= level))

    return power


@cache
def _sign_tests(count: int, spread: float) -> np.ndarray:
    """The one-sided p of simulated values of mean 1."""
    values = 1 + spread * np.random.default_rng(0).standard_normal((count, _TESTS))
    sums = turned_signs(count) @ values
    law: np.ndarray = np.mean(sums >= sums[0] - 1e-9 * np.abs(values).sum(axis=0), axis=0)
    return law


def _of_share(design: ShareTest) -> PowerOfSeeds:
    def power(seeds: int, level: float) -> float:
        trials = round(design.trials * seeds / design.seeds)
        counts = np.arange(trials + 1)
        enough = stats.binom.sf(counts - 1, trials, design.limit) <= level
        return float(stats.binom.pmf(counts[enough], trials, design.aim).sum())

    return power


def value_text(design: MeanTest, value: float, digits: int = 3) -> str:
    """A value of the mean that is tested, as a reader wants it: `× 1.2`, `+1 points`, `0.5`."""
    if design.unit == "log":
        return f"× {number(exp_or_inf(value), digits)}"
    return f"{signed(100 * value, digits)} points" if design.unit == "share" else number(value, digits)


def aim_text(design: Design) -> str:
    """What a test should find."""
    if isinstance(design, MeanTest):
        return value_text(design, design.aim)
    if isinstance(design, OrderTest):
        return f"× {number(design.ratio, 3)}" if design.ratio and design.by_seed else f"τ {number(TAU)}"
    return f"τ {number(TAU)}" if isinstance(design, SignTest) else f"share {number(design.aim)}"


def aim_origin(design: Design) -> str:
    """`paper` or `least`."""
    if isinstance(design, MeanTest):
        return design.origin
    is_paper = isinstance(design, ShareTest) or (isinstance(design, OrderTest) and design.by_seed and design.ratio)
    return "paper" if is_paper else "least"


def spread_text(design: Design) -> str:
    """How far seeds differ in the pilots; a dash where that plays no part."""
    if isinstance(design, MeanTest):
        spread = design.estimate.spread
        if design.unit == "share":
            return f"{number(100 * spread, 2)} points"
        return f"{number(spread, 2)}{' (ln)' if design.unit == 'log' else ''}"
    if isinstance(design, SignTest):
        return number(float(np.std(design.values, ddof=1)), 2)
    if isinstance(design, OrderTest) and not design.by_seed:
        return f"{number(100 * shared_by_seeds(design.groups), 2)} % shared"
    return f"{number(_noise(design), 2)} (ln)" if isinstance(design, OrderTest) and design.ratio else "–"
