"""Rules that turn finished runs into evidence; each pairs runs by seed and decides by a 95 % t-interval.

A rule holds when the interval lies wholly on the claimed side, fails when it lies wholly on the other, and is
undecided otherwise; with fewer than two seeds it is always undecided, for one seed has no spread to judge by.
Runs that diverged, failed or are still running never decide; each rule says which ones it left out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hessflat.analysis import wording
from hessflat.analysis.experiment import Evidence, Verdict
from hessflat.analysis.names import is_fraction, metric_name, number, quantity, setting_name
from hessflat.analysis.pairing import (
    error_bound,
    finite_final,
    num_examples,
    pairs_by_seed,
    refuse_twins,
    with_examples,
)
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.statistics import Interval, kendall_tau, mean_interval
from hessflat.utils.errors import InputError

Expect = Literal["larger", "smaller"]
Order = Literal["increases", "decreases"]


class Best(NamedTuple):
    """The setting with the best mean of `metric` over seeds; equal means go to the smallest setting.

    Choosing on validation and comparing on test keeps the compared numbers free of the choice.
    """

    metric: str = "validation_accuracy"
    largest: bool = True


def compare(
    runs: Sequence[Run],
    metric: str,
    by: str = "optim.l2",
    low: Any = 0.0,
    high: Any = Best(),  # noqa: B008  an immutable tuple
    expect: Expect = "larger",
    scale: Literal["difference", "ratio"] = "ratio",
) -> Evidence:
    """Is `metric` larger (or smaller) at the setting `high` than at `low`, over the seeds both have?

    `high` is a value of the setting, or a `Best` that picks one among the values other than `low`. `ratio`
    takes differences of logarithms, and so needs positive values; accuracies are better compared by
    `difference`. Where runs carry an error bound (`<metric>_bound`), the interval is widened by it.
    """
    if isinstance(high, Best):
        chosen = best_setting(runs, by, high, without=low)
        if chosen is None:
            return nothing(runs, f"no finished run has {setting_name(by)} other than {number(low)}")
        high = chosen
    pairs = _paired(runs, by, low, high)
    if isinstance(pairs, Evidence):
        return pairs

    before, after = (np.array([finite_final(run, metric) for run in side]) for side in zip(*pairs, strict=True))
    slack = np.mean([error_bound(first, metric) + error_bound(second, metric) for first, second in pairs])
    if scale == "ratio":
        if min(before.min(), after.min()) <= 0:
            raise InputError(f"a ratio of {metric} needs positive values; compare by difference")
        relative = [
            error_bound(first, metric) / a + error_bound(second, metric) / b
            for (first, second), a, b in zip(pairs, before, after, strict=True)
        ]
        change = mean_interval(np.log(after / before)).widened(float(np.mean(relative)))
    else:
        change = mean_interval(after - before).widened(float(slack))
        change = with_examples(change, num_examples(metric, pairs))
    verdict = side(change, len(pairs), expect)

    name = metric_name(metric)
    levels = f"{setting_name(by)} {number(low)} → {number(high)}"
    effect = wording.effect(metric, change.mean, scale)
    value = f"{quantity(metric, before.mean())} → {quantity(metric, after.mean())} ({effect}) at {levels}"
    spread = wording.interval(change, len(pairs), lambda x: wording.end(metric, x, scale))
    agreeing = int(np.sum(after > before if expect == "larger" else after < before))
    explanation = (
        f"{name} is {expect} at {setting_name(by)} {number(high)} than at {number(low)} "
        f"in {agreeing} of {wording.seed_count(len(pairs))}; {wording.reason(verdict, len(pairs), 'no change')}"
    )
    if is_fraction(metric) and scale == "difference":
        counted = num_examples(metric, pairs)
        explanation += f" (the interval counts in that there are {counted} examples)" if counted else ""
    return Evidence(value, spread, len(pairs), verdict, explanation + wording.left_out(runs))


def increases(
    runs: Sequence[Run],
    metric: str,
    by: str = "optim.l2",
    expect: Order = "increases",
) -> Evidence:
    """Does `metric` follow the setting in order? Each seed's Kendall tau against the setting, averaged."""
    return in_order(
        runs, lambda run: finite_final(run, metric), metric_name(metric), by, expect, lambda x: quantity(metric, x)
    )


def in_order(
    runs: Sequence[Run],
    value_of: Callable[[Run], float],
    what: str,
    by: str = "optim.l2",
    expect: Order = "increases",
    write: Callable[[float], str] = number,
) -> Evidence:
    """Does a number of each run, `what` in words, follow the setting in order? As `increases`."""
    done = finished(runs)
    settings = by_setting(done, by)
    if len(settings) < 2:
        return nothing(runs, f"finished runs at fewer than two values of {setting_name(by)}")
    refuse_twins(done, by)
    taus = [
        kendall_tau([run.setting(by) for run in own], [value_of(run) for run in own])
        for own in by_setting(done, "seed").values()
        if len(own) > 1
    ]
    if not taus:
        return nothing(runs, f"no seed has two values of {setting_name(by)}")
    change = mean_interval(taus)
    verdict = side(change, len(taus), "larger" if expect == "increases" else "smaller")
    means = [float(np.mean([value_of(run) for run in group])) for group in settings.values()]
    steps = np.diff(means) if expect == "increases" else -np.diff(means)
    value = (
        f"{' → '.join(write(mean) for mean in means)} at {setting_name(by)} "
        f"{', '.join(number(setting) for setting in settings)} (Kendall τ {number(change.mean, 2)})"
    )
    monotone = "are" if np.all(steps > 0) else "are not"
    explanation = (
        f"the means over seeds of {what} {monotone} in {expect[:-2]}ing order; "
        f"{wording.reason(verdict, len(taus), 'no order (τ = 0)')}"
    )
    spread = wording.interval(change.within(-1.0, 1.0), len(taus), number)
    return Evidence(value, spread, len(taus), verdict, explanation + wording.left_out(runs))


def sharper_and_better(
    runs: Sequence[Run],
    sharpness: str = "hessian.lambda_max",
    quality: str = "test_accuracy",
    by: str = "optim.l2",
    low: Any = 0.0,
    high: Any = Best(),  # noqa: B008  an immutable tuple
    expect_quality: Expect = "larger",
) -> Evidence:
    """Is the solution at `high` both sharper and better than the one at `low`? (The title of G.)"""
    return all_of(
        compare(runs, sharpness, by, low, high, "larger", "ratio"),
        compare(runs, quality, by, low, high, expect_quality, "difference"),
    )


def at_least(
    runs: Sequence[Run],
    metric: str,
    bound_metric: str,
    tolerance: float = 0.0,
    when: Literal["end", "always"] = "end",
    vacuous: float = 0.0,
) -> Evidence:
    """Does `metric` reach `bound_metric` less `tolerance`? Each seed counts with its worst run (and step).

    A bound that is nowhere above `vacuous` is reached by anything, and so decides nothing (G's rank bound exceeds
    the number of parameters in small networks).
    """
    done = finished(runs)
    if not done:
        return nothing(runs, "no run has finished")
    worst: list[tuple[float, float, float]] = []
    for own in by_setting(done, "seed").values():
        margins = []
        for run in own:
            run.final(metric), run.final(bound_metric)  # refuses, in one line, a run that was not measured
            steps = slice(None) if when == "always" else slice(-1, None)
            values, bounds = run.history(metric)[steps], run.history(bound_metric)[steps]
            margins += [(a - b, a, b) for a, b in zip(values, bounds, strict=True)]
        margins = [margin for margin in margins if math.isfinite(margin[0])]
        if not margins:
            raise InputError(f"{own[0].path}: {metric!r} is never finite; measure it again")
        worst.append(min(margins))
    change = mean_interval([margin + tolerance for margin, _, _ in worst])
    verdict = side(change, len(worst), "larger", or_equal=True)
    margin, reached, bound = min(worst)
    says_nothing = max(bound for _, _, bound in worst) <= vacuous
    allowance = f" less {number(tolerance)}" if tolerance else ""
    where = "over all measured steps" if when == "always" else "at the end"
    smallest = wording.signed(margin + tolerance)
    value = f"{quantity(metric, reached)} against {number(bound)}{allowance} (smallest margin {smallest})"
    explanation = (
        f"the worst {metric_name(metric)} {where} is {number(reached)}, the bound is "
        f"{number(bound)}{allowance}; {wording.reason(verdict, len(worst), 'the bound')}"
    )
    if says_nothing:
        verdict = "undecided"
        explanation = f"the bound is not above {number(vacuous)} here: any value reaches it, so it decides nothing"
    spread = wording.interval(change, len(worst), wording.signed)
    return Evidence(value, spread, len(worst), verdict, explanation + wording.left_out(runs))


def agrees(runs: Sequence[Run], metric: str, other: str, within: float = 0.05) -> Evidence:
    """Are two metrics of the same runs equal within a relative difference, averaged over each seed's runs?"""
    done = finished(runs)
    if not done:
        return nothing(runs, "no run has finished")
    per_seed = []
    for own in by_setting(done, "seed").values():
        pairs = [(finite_final(run, metric), finite_final(run, other)) for run in own]
        if min(min(pair) for pair in pairs) <= 0:
            raise InputError(f"{own[0].path}: a ratio of {metric} to {other} needs positive values")
        per_seed.append(float(np.mean([math.log(a / b) for a, b in pairs])))
    ratio = mean_interval(per_seed)
    low, high = math.log1p(-within), math.log1p(within)
    verdict = _within(ratio, low, high, len(per_seed))
    value = f"{metric_name(metric)} / {metric_name(other)} = {number(math.exp(ratio.mean))}"
    explanation = f"the two are claimed equal within {100 * within:g} %; " + {
        "holds": "the interval lies within these limits",
        "fails": "the interval lies outside these limits",
    }.get(verdict, "the interval reaches across these limits" if len(per_seed) > 1 else "one seed cannot decide")
    spread = wording.interval(ratio, len(per_seed), lambda x: number(wording.exp_or_inf(x)))
    return Evidence(value, spread, len(per_seed), verdict, explanation + wording.left_out(runs))


def unchanged(
    runs: Sequence[Run],
    value_of: Callable[[Run], float],
    by: str,
    low: Any,
    high: Any,
    factor: float,
    what: str,
) -> Evidence:
    """Is a positive number of each run, `what` in words, the same at two values of a setting, within a factor?

    The ratio at `high` to that at `low`, paired by seed: holds when the interval of its logarithm lies within
    ± log `factor`, fails when it lies outside.
    """
    pairs = _paired(runs, by, low, high)
    if isinstance(pairs, Evidence):
        return pairs
    before, after = (np.array([value_of(run) for run in side]) for side in zip(*pairs, strict=True))
    if not min(before.min(), after.min()) > 0:
        raise InputError(f"a ratio of {what} needs positive values, got {min(before.min(), after.min()):.3g}")
    ratio = mean_interval(np.log(after / before))
    limit = math.log(factor)
    verdict = _within(ratio, -limit, limit, len(pairs))
    value = (
        f"{what} {number(float(before.mean()), 3)} → {number(float(after.mean()), 3)} "
        f"(× {number(math.exp(ratio.mean), 3)}) at {setting_name(by)} {number(low)} → {number(high)}"
    )
    explanation = f"the ratio is claimed to be 1 within a factor of {number(factor)}; " + {
        "holds": "the interval lies within",
        "fails": "the interval lies outside",
    }.get(verdict, "the interval reaches across" if len(pairs) > 1 else "one seed cannot decide")
    spread = wording.interval(ratio, len(pairs), lambda x: f"× {number(wording.exp_or_inf(x), 3)}")
    return Evidence(value, spread, len(pairs), verdict, explanation + wording.left_out(runs))


def beyond(
    runs: Sequence[Run],
    value_of: Callable[[Run], float],
    limit: float,
    what: str,
    expect: Expect = "larger",
) -> Evidence:
    """Is a number of each run, `what` in words, larger (or smaller) than `limit`? Each seed counts with its mean."""
    done = finished(runs)
    if not done:
        return nothing(runs, "no run has finished")
    values = [float(np.mean([value_of(run) for run in own])) for own in by_setting(done, "seed").values()]
    if not np.all(np.isfinite(values)):
        raise InputError(f"{done[0].path}: {what} is not finite; measure it again")
    found = mean_interval(values)
    verdict = side(Interval(found.mean - limit, found.low - limit, found.high - limit), len(values), expect)
    explanation = (
        f"{what} is claimed {expect} than {number(limit)}; {wording.reason(verdict, len(values), number(limit))}"
    )
    spread = wording.interval(found, len(values), number)
    return Evidence(f"{what} {number(found.mean)}", spread, len(values), verdict, explanation + wording.left_out(runs))


def in_every_run(runs: Sequence[Run], value_of: Callable[[Run], float], limit: float, what: str) -> Evidence:
    """Is a number at most `limit` in every run? For what follows from a theorem: spread over seeds is no matter."""
    done = finished(runs)
    if not done:
        return nothing(runs, "no run has finished")
    values = [value_of(run) for run in done]
    seeds = len({run.seed for run in done})
    verdict: Verdict = "holds" if max(values) <= limit else "fails"
    return Evidence(
        f"{what} at most {number(max(values))}",
        f"from {number(min(values))} to {number(max(values))} over {len(done)} runs",
        seeds,
        verdict,
        f"{what} is claimed at most {number(limit)} in every run" + wording.left_out(runs),
    )


def all_of(*parts: Evidence) -> Evidence:
    """Every part must hold; one that fails sinks the whole, and one not run leaves it not run."""
    verdicts = [part.verdict for part in parts]
    order: tuple[Verdict, ...] = ("fails", "not run", "undecided")
    verdict: Verdict = next((word for word in order if word in verdicts), "holds")
    return Evidence(
        "; ".join(part.value for part in parts if part.value),
        "; ".join(part.spread for part in parts if part.spread),
        min(part.seeds for part in parts),
        verdict,
        "; and ".join(dict.fromkeys(part.explanation for part in parts)),
    )


def best_setting(runs: Sequence[Run], by: str, best: Best, without: Any = None) -> Any | None:
    """The value of the setting that `best` picks among finished runs, other than `without`, if any."""
    means = {
        value: float(np.mean([finite_final(run, best.metric) for run in group]))
        for value, group in by_setting(finished(runs), by).items()
        if value != without
    }
    if not means:
        return None
    # Groups come in increasing order of the setting and max keeps the first of equals.
    return max(means, key=lambda value: means[value] if best.largest else -means[value])


def _paired(runs: Sequence[Run], by: str, low: Any, high: Any) -> list[tuple[Run, Run]] | Evidence:
    """The finished runs at two values of a setting, by seed; or what to say where there are none."""
    done = by_setting(finished(runs), by)
    for value in (low, high):
        if value not in done:
            return nothing(_at(runs, by, value), f"no finished run has {setting_name(by)} = {number(value)}")
    pairs = pairs_by_seed(done[low], done[high], by)
    return pairs or nothing(runs, f"{setting_name(by)} {number(low)} and {number(high)} share no seed")


def _at(runs: Sequence[Run], by: str, value: Any) -> list[Run]:
    return [run for run in runs if run.setting(by) == value]


def side(change: Interval, seeds: int, expect: Expect, or_equal: bool = False) -> Verdict:
    """What an interval says of a number that is claimed above (or below) 0."""
    if seeds < 2:
        return "undecided"
    low, high = (change.low, change.high) if expect == "larger" else (-change.high, -change.low)
    if low > 0 or (or_equal and low == 0):
        return "holds"
    return "fails" if high < 0 else "undecided"


def _within(found: Interval, low: float, high: float, seeds: int) -> Verdict:
    """Does the interval lie between two limits, outside them, or across one?"""
    if seeds < 2:
        return "undecided"
    if low <= found.low and found.high <= high:
        return "holds"
    return "fails" if found.high < low or found.low > high else "undecided"


def nothing(runs: Sequence[Run], reason: str) -> Evidence:
    """No number to give: not run when nothing was tried, undecided when it was tried and did not finish."""
    tried = [run for run in runs if run.status in ("diverged", "failed")]
    return Evidence("", "", 0, "undecided" if tried else "not run", reason + wording.left_out(runs))
