"""Rules on one number of a run: beside a limit, a bound, or another number of the same run.

They are read as those of `claims`, which compare settings.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from hessflat.analysis.decisions import NOTHING, conjunction
from hessflat.analysis.designs import FIFTH, LN_FACTOR, Origin, SignTest, to_one
from hessflat.analysis.evidence import (
    BY_T,
    Expect,
    Statistic,
    against,
    between,
    decided,
    exact_text,
    exp_or_inf,
    interval_text,
    none_finished,
    not_applicable,
    of_test,
    side_of,
    signed,
)
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.names import metric_name, number, quantity
from hessflat.analysis.results import Run, by_setting, finished, finite_final
from hessflat.analysis.statistics import estimate, sign_flip_test
from hessflat.utils.errors import InputError

Scale = Literal["plain", "log"]
Of = Literal["worst", "mean"]


def exceeds(
    runs: Sequence[Run],
    statistic: Statistic,
    limit: float,
    what: str,
    scale: Scale = "plain",
    of: Of = "worst",
    least: float | None = None,
) -> Evidence:
    """Is a statistic, named `what`, larger than `limit`? Each seed contributes the smallest of its runs."""
    return against_limit(runs, statistic, limit, what, "larger", scale, of, least)


def falls_below(
    runs: Sequence[Run],
    statistic: Statistic,
    limit: float,
    what: str,
    scale: Scale = "plain",
    of: Of = "worst",
    least: float | None = None,
) -> Evidence:
    """Is a statistic, named `what`, smaller than `limit`? Each seed contributes the largest of its runs."""
    return against_limit(runs, statistic, limit, what, "smaller", scale, of, least)


def against_limit(
    runs: Sequence[Run],
    statistic: Statistic,
    limit: float,
    what: str,
    expect: Expect,
    scale: Scale = "plain",
    of: Of = "worst",
    least: float | None = None,
    origin: Origin = "least",
) -> Evidence:
    """The rule of `exceeds` or `falls_below`, in the direction `expect`.

    Runs of a seed that differ in a setting are not averaged: the worst of them counts, except where `of` is "mean".

    With the scale "log", which suits positive ratios, logarithms are compared; what is below a hundredth of the limit,
    as a ratio that is 0, counts as a hundredth of it.

    `least` is the distance from the limit that the rule should find: with the scale "log" by default a factor of 2,
    else a fifth of the limit. Where that is 0, it must be given. `origin` says whether the paper states it.

    Raises:
        InputError: a statistic that is not finite; no `least` where the limit is 0.
    """
    if scale == "plain" and least is None and not limit:
        raise InputError(f"{what.rstrip(',')}: with a limit of 0 give the effect that it should find, as least=0.5")
    word = "mean" if of == "mean" else "smallest" if expect == "larger" else "largest"
    ends: dict[str, Callable[[Sequence[float]], float]] = {"mean": np.mean, "smallest": min, "largest": max}
    of_seed = ends[word]
    clipped = f" of logarithms (what is below {number(limit / 100)} counts as that)" if scale == "log" else ""
    rule = f"{what.rstrip(',')}, the {word} of a seed's runs, {side_of(expect)} {number(limit)} by {BY_T}{clipped}"
    done = finished(runs)
    if not done:
        return none_finished(runs, rule)
    values = np.array([of_seed(own) for own in _by_seed(done, statistic, what)])
    logs = scale == "log"
    mean = estimate(np.log(np.maximum(values, limit / 100)) if logs else values)
    shown: Callable[[float], float] = exp_or_inf if logs else float
    at = math.log(limit) if logs else limit
    at_most = "at most " if logs and values.min() < limit / 100 else ""
    spread = interval_text(mean.interval, len(values), lambda x, digits: number(shown(x), digits))
    chance = against(mean, at, expect, LN_FACTOR if logs and least is None else least, scale, origin=origin)
    return decided(
        runs, rule, chance, f"{what} {at_most}{number(shown(mean.mean))}", spread, len(values),
        f"{what} is claimed to be {expect} than {number(limit)}", number(limit),
    )  # fmt: skip


def _by_seed(done: Sequence[Run], statistic: Callable[[Run], float | np.ndarray], what: str) -> list[list[float]]:
    """The numbers that a statistic, named `what`, gives of the runs of each seed.

    Raises:
        InputError: one that is not finite.
    """
    seeds = []
    for own in by_setting(done, "seed").values():
        numbers: list[float] = []
        for run in own:
            numbers += np.atleast_1d(statistic(run)).astype(float).tolist()
            if not np.all(np.isfinite(numbers)):
                raise InputError(f"{run.path}: {what} is not finite; measure it again")
        seeds.append(numbers)
    return seeds


def lies_within(
    runs: Sequence[Run], statistic: Callable[[Run], float | np.ndarray], low: float, high: float, what: str
) -> Evidence:
    """Do the numbers that a statistic, named `what`, gives of a run lie between two limits?

    The smallest number of a seed's runs is tested against the lower limit, and the largest against the upper one. The
    rule should find what lies in the middle half between them.

    Raises:
        InputError: a number that is not finite.
    """
    rule = (
        f"{what.rstrip(',')}, the smallest and the largest of a seed's runs, between {number(low)} and {number(high)} "
        f"by {BY_T}"
    )
    done = finished(runs)
    if not done:
        return none_finished(runs, rule)
    by_seed = _by_seed(done, statistic, what)
    smallest, largest = (estimate([float(end(values)) for values in by_seed]) for end in (np.min, np.max))
    least = (high - low) / 4
    chance = conjunction([against(smallest, low, "larger", least), against(largest, high, "smaller", least)])
    several = any(len(values) > 1 for values in by_seed)
    means = [smallest, largest] if several else [smallest]
    return decided(
        runs, rule, chance, f"{what} {' to '.join(number(one.mean) for one in means)}",
        " and ".join(interval_text(one.interval, len(by_seed), number) for one in means), len(by_seed),
        f"{what} is claimed to be between {number(low)} and {number(high)}", "these limits",
    )  # fmt: skip


def on_one_side(runs: Sequence[Run], statistic: Statistic, what: str, expect: Expect) -> Evidence:
    """Is a statistic above (or below) 0? It may take few values, as the rank correlation of a short series does.

    The mean over a seed's runs is tested by turning the signs of any of the seeds, of which it takes six to decide.
    """
    rule = f"{what}, mean over a seed's runs, {side_of(expect)} 0 by an exact test that turns signs of seeds"
    done = finished(runs)
    if not done:
        return none_finished(runs, rule)
    values = [float(np.mean(own)) for own in _by_seed(done, statistic, what)]
    test = sign_flip_test(values)
    return decided(
        runs, rule, of_test(test, len(values), expect, SignTest(values, len(values), by_seed=True)),
        f"{what} {number(float(np.mean(values)))}",
        exact_text(test, len(values)), len(values), f"{what} is claimed to be {side_of(expect)} 0", "0",
    )  # fmt: skip


def in_every_run(runs: Sequence[Run], statistic: Statistic, limit: float, what: str) -> Evidence:
    """Is a statistic, named `what`, at most `limit` in every run that there could be?

    The rule is for consequences of theorems, which one run refutes: it fails where one does. It holds where none does
    and the largest of a seed's runs is below the limit on average over seeds.

    Raises:
        InputError: a statistic that is not finite.
    """
    rule = (
        f"{what} at most {number(limit)} in every run, and the largest of a seed's runs below it by {BY_T}; one run "
        "refutes it"
    )
    done = finished(runs)
    if not done:
        return none_finished(runs, rule)
    by_seed = _by_seed(done, statistic, what)
    values = [value for own in by_seed for value in own]
    worst = estimate([max(own) for own in by_seed])
    beyond = sum(value > limit for value in values)
    chance = NOTHING
    if len(by_seed) > 1:
        below = against(worst, limit, "smaller")
        chance = below._replace(holds=1.0, fails=0.0) if beyond else below._replace(fails=1.0)
    return decided(
        runs, rule, chance, f"{what} at most {number(max(values))}",
        f"from {number(min(values))} to {number(max(values))} over {len(done)} runs", len(by_seed),
        f"{beyond} of {len(values)} runs are above {number(limit)}", number(limit),
    )  # fmt: skip


def reaches_bound(
    runs: Sequence[Run],
    metric: str,
    bound_metric: str,
    tolerance: float = 0.0,
    when: Literal["end", "always"] = "end",
    vacuous: float = 0.0,
) -> Evidence:
    """Is `metric` above `bound_metric` − `tolerance`?

    The statistic of a seed is the smallest margin metric − bound over its runs and, with `when="always"`, over all
    measured steps. A bound that is nowhere above `vacuous` is not applicable, because every value reaches it: the rank
    bound of *Flatness is a False Friend* is larger than P in small networks. The rule should find a margin of a fifth
    of the bound, or of half of what is left to 1, for a share.

    Raises:
        InputError: a metric or bound that was not measured, or is not finite, at the end of a run.
    """
    less = f" less {number(tolerance)}" if tolerance else ""
    where = "over all measured steps" if when == "always" else "at the end"
    plus = f" plus {number(tolerance)}" if tolerance else ""
    rule = (
        f"{metric_name(metric)} less {metric_name(bound_metric)}{plus}, the smallest of a seed's runs {where}, above 0 "
        f"by {BY_T}; not applicable where the bound is at most {number(vacuous)}"
    )
    done = finished(runs)
    if not done:
        return none_finished(runs, rule)
    worst: list[tuple[float, float, float]] = []
    largest_bound = -math.inf
    for own in by_setting(done, "seed").values():
        margins = []
        for run in own:
            finite_final(run, metric), finite_final(run, bound_metric)
            steps = slice(None) if when == "always" else slice(-1, None)
            values, bounds = run.history(metric)[steps], run.history(bound_metric)[steps]
            margins += [(a - b, a, b) for a, b in zip(values, bounds, strict=True) if math.isfinite(a - b)]
        worst.append(min(margins))
        largest_bound = max(largest_bound, *(bound for _, _, bound in margins))
    change = estimate([margin + tolerance for margin, _, _ in worst])
    margin, reached, bound = min(worst)
    value = f"{quantity(metric, reached)} against {number(bound)}{less} (smallest margin {signed(margin + tolerance)})"
    if largest_bound <= vacuous:
        why = f"the bound is not above {number(vacuous)} here: any value reaches it, so it decides nothing"
        return not_applicable(rule, why, len(worst), value)
    explanation = f"the worst {metric_name(metric)} {where} is {number(reached)}, the bound is {number(bound)}{less}"
    spread = interval_text(change.interval, len(worst), signed)
    least = min(FIFTH * abs(bound), to_one(bound))
    chance = against(change, 0.0, "larger", least)
    return decided(runs, rule, chance, value, spread, len(worst), explanation, "the bound")


def agrees(runs: Sequence[Run], metric: str, other: str, within: float = 0.05) -> Evidence:
    """Are two metrics of the same runs equal within the relative difference `within`?

    The statistic of a seed is the mean of log(metric / other) over its runs, at the last measured step.

    Raises:
        InputError: values that are not positive.
    """
    what = f"{metric_name(metric)} / {metric_name(other)}"
    rule = f"{what}, geometric mean over a seed's runs, within {100 * within:g} % of 1 by {BY_T}"
    done = finished(runs)
    if not done:
        return none_finished(runs, rule)
    per_seed = []
    for own in by_setting(done, "seed").values():
        pairs = [(finite_final(run, metric), finite_final(run, other)) for run in own]
        if min(min(pair) for pair in pairs) <= 0:
            raise InputError(f"{own[0].path}: a ratio of {metric} to {other} needs positive values")
        per_seed.append(float(np.mean([math.log(a / b) for a, b in pairs])))
    ratio = estimate(per_seed)
    spread = interval_text(ratio.interval, len(per_seed), lambda x, digits: number(exp_or_inf(x), digits))
    chance = between(ratio, math.log1p(-within), math.log1p(within), "log")
    return decided(
        runs, rule, chance, f"{what} = {number(math.exp(ratio.mean))}",
        spread, len(per_seed), f"the two are claimed equal within {100 * within:g} %", "these limits",
    )  # fmt: skip
