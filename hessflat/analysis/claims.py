"""Rules that turn finished runs into evidence. Each rule pairs runs by seed and decides by a 95 % t-interval over
seeds.

A rule holds when the interval lies wholly on the claimed side. It fails when the interval lies wholly on the other
side, and is undecided otherwise. With fewer than two seeds a rule is always undecided, because one seed has no spread.
Only runs with status "done" decide; each explanation names the runs that are left out. Where there is nothing to
compare, a rule is undecided if a run diverged or failed, else "not run".

A `Statistic` maps a run to one number. Every rule raises an InputError for a metric that was not measured or is not
finite. The module is long because it lists all rules, each of which can be read by itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hessflat.analysis.evidence import (
    Expect,
    change_text,
    effect_text,
    exp_or_inf,
    interval_text,
    left_out,
    no_evidence,
    order_reason,
    order_text,
    reason,
    seed_count,
    signed,
    verdict_against_zero,
    verdict_of_order,
    verdict_within,
)
from hessflat.analysis.experiment import Effect, Evidence, Verdict
from hessflat.analysis.names import is_fraction, metric_name, number, quantity, setting_name
from hessflat.analysis.results import (
    Run,
    by_setting,
    error_bound,
    finished,
    finite_final,
    num_examples,
    pairs_by_seed,
    require_unique_pairs,
)
from hessflat.analysis.statistics import Interval, kendall_tau, mean_interval, order_test
from hessflat.utils.errors import InputError

Statistic = Callable[[Run], float]
Order = Literal["increases", "decreases"]


class Best(NamedTuple):
    """The value of a setting with the best mean of `metric` over seeds; of equal means, the smallest value.

    Selecting on the validation split and comparing on the test split keeps the comparison free of selection bias.
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
    """Is `metric` larger (or smaller) at the setting `high` than at `low`, over the seeds that both have?

    The 95 % t-interval is that of the mean over seeds of log(high / low), or of high − low. Where runs have an error
    bound `<metric>_bound`, the interval is widened by the bounds of both. For a difference of accuracies it also
    includes the sampling error of the examples, see `Interval.with_examples`.

    Args:
        runs: the runs of one experiment; those that have not finished are left out.
        metric: the name of a metric, read at the last measured step.
        by: the setting that is compared, by its dotted name.
        low: a value of the setting.
        high: another value, or a `Best` that selects one of the values other than `low`.
        expect: the claimed direction.
        scale: "ratio" compares logarithms, "difference" the values themselves, which suits accuracies.

    Raises:
        InputError: values that are not positive with the scale "ratio"; two runs that share seed and setting; a metric
            that was not measured or is not finite.
    """
    if isinstance(high, Best):
        chosen = best_setting(runs, by, high, without=low)
        if chosen is None:
            return no_evidence(runs, f"no finished run has {setting_name(by)} other than {number(low)}")
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
        change = change.with_examples(num_examples(metric, pairs))
    verdict = verdict_against_zero(change, len(pairs), expect)

    name = metric_name(metric)
    levels = f"{setting_name(by)} {number(low)} → {number(high)}"
    effect = effect_text(metric, change.mean, scale)
    value = f"{quantity(metric, before.mean())} → {quantity(metric, after.mean())} ({effect}) at {levels}"
    spread = interval_text(change, len(pairs), lambda x: change_text(metric, x, scale))
    agreeing = int(np.sum(after > before if expect == "larger" else after < before))
    explanation = (
        f"{name} is {expect} at {setting_name(by)} {number(high)} than at {number(low)} "
        f"in {agreeing} of {seed_count(len(pairs))}; {reason(verdict, len(pairs), 'no change')}"
    )
    if is_fraction(metric) and scale == "difference":
        counted = num_examples(metric, pairs)
        explanation += f" (the interval counts in that there are {counted} examples)" if counted else ""
    return Evidence(value, spread, len(pairs), verdict, explanation + left_out(runs), Effect(change, scale))


def increases(
    runs: Sequence[Run],
    metric: str,
    by: str = "optim.l2",
    expect: Order = "increases",
) -> Evidence:
    """Does `metric` increase (or decrease) with the setting `by`?

    The statistic is Kendall's tau of the metric at the last measured step and the setting, over the seeds. It is
    compared with what any order of the values of each seed would give, by the exact permutation test `order_test`.

    Raises:
        InputError: two runs that share seed and setting; a metric that was not measured or is not finite.
    """
    return in_order(
        runs, lambda run: finite_final(run, metric), metric_name(metric), by, expect, lambda x: quantity(metric, x)
    )


def in_order(
    runs: Sequence[Run],
    statistic: Statistic,
    what: str,
    by: str = "optim.l2",
    expect: Order = "increases",
    write: Callable[[float], str] = number,
) -> Evidence:
    """Does a statistic increase (or decrease) with the setting `by`? The rule of `increases` for any `statistic`.

    `what` names the statistic in the explanation, `write` formats its values.
    """
    done = finished(runs)
    settings = by_setting(done, by)
    if len(settings) < 2:
        return no_evidence(runs, f"finished runs at fewer than two values of {setting_name(by)}")
    require_unique_pairs(done, by)
    groups = [
        (np.array([[float(run.setting(by)) for run in own]]), np.array([[statistic(run) for run in own]]))
        for own in by_setting(done, "seed").values()
        if len(own) > 1
    ]
    if not groups:
        return no_evidence(runs, f"no seed has two values of {setting_name(by)}")
    tau, test = float(np.mean([kendall_tau(x[0], y[0]) for x, y in groups])), order_test(groups)
    verdict = verdict_of_order(test, len(groups), "larger" if expect == "increases" else "smaller")
    means = [float(np.mean([statistic(run) for run in group])) for group in settings.values()]
    steps = np.diff(means) if expect == "increases" else -np.diff(means)
    value = (
        f"{' → '.join(write(mean) for mean in means)} at {setting_name(by)} "
        f"{', '.join(number(setting) for setting in settings)} (Kendall τ {number(tau, 2)})"
    )
    monotone = "are" if np.all(steps > 0) else "are not"
    explanation = (
        f"the means over seeds of {what} {monotone} in {expect[:-2]}ing order; "
        f"{order_reason(verdict, test, len(groups))}"
    )
    effect = _first_to_last(groups)
    return Evidence(value, order_text(test, len(groups)), len(groups), verdict, explanation + left_out(runs), effect)


def _first_to_last(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> Effect | None:
    """The ratio of the values at the largest and the smallest setting, over seeds; None where one is not positive."""
    ends = [(y[0, x[0].argmin()], y[0, x[0].argmax()]) for x, y in groups]
    if min(min(pair) for pair in ends) <= 0:
        return None
    return Effect(mean_interval([math.log(last / first) for first, last in ends]), "ratio")


def of_the_better(
    runs: Sequence[Run],
    metric: str,
    expect: Expect = "larger",
    quality: str = "test_accuracy",
    better: Expect = "larger",
    by: str = "optim.l2",
    low: Any = 0.0,
    high: Any = Best(),  # noqa: B008  an immutable tuple
) -> Evidence:
    """Is `metric` larger (or smaller) for whichever of the solutions at `low` and at `high` is the better one?

    The title of *Flatness is a False Friend* is such a claim. Which one is better is decided first, by `compare` of
    `quality` and its difference; where that is undecided, so is the claim. Then `metric` is compared, by its ratio.
    `better` says whether a larger or a smaller `quality` is the better one.
    """
    which = compare(runs, quality, by, low, high, better, "difference")
    at_high = which.verdict != "fails"
    second = compare(runs, metric, by, low, high, expect if at_high else _other(expect), "ratio")
    said = {
        "holds": f"{setting_name(by)} above {number(low)} is the better one",
        "fails": f"{setting_name(by)} {number(low)} is the better one",
    }.get(which.verdict, "which one is better is undecided")
    if not isinstance(high, Best) and which.verdict == "holds":
        said = f"{setting_name(by)} {number(high)} is the better one"
    return Evidence(
        "; ".join(part.value for part in (second, which) if part.value),
        "; ".join(part.spread for part in (second, which) if part.spread),
        min(second.seeds, which.seeds),
        second.verdict if which.verdict in ("holds", "fails") else which.verdict,
        f"{said} ({which.explanation}); {second.explanation}",
        second.effect,
    )


def _other(expect: Expect) -> Expect:
    return "smaller" if expect == "larger" else "larger"


def reaches_bound(
    runs: Sequence[Run],
    metric: str,
    bound_metric: str,
    tolerance: float = 0.0,
    when: Literal["end", "always"] = "end",
    vacuous: float = 0.0,
) -> Evidence:
    """Is `metric` at least `bound_metric` − `tolerance`?

    The statistic of a seed is the smallest margin metric − bound over its runs and, with `when="always"`, over all
    measured steps. A bound that is nowhere above `vacuous` is undecided, because every value reaches it: the rank bound
    of *Flatness is a False Friend* is larger than P in small networks.

    Raises:
        InputError: a metric or bound that was not measured or is never finite.
    """
    done = finished(runs)
    if not done:
        return no_evidence(runs, "no run has finished")
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
    verdict = verdict_against_zero(change, len(worst), "larger", or_equal=True)
    margin, reached, bound = min(worst)
    says_nothing = max(bound for _, _, bound in worst) <= vacuous
    allowance = f" less {number(tolerance)}" if tolerance else ""
    where = "over all measured steps" if when == "always" else "at the end"
    smallest = signed(margin + tolerance)
    value = f"{quantity(metric, reached)} against {number(bound)}{allowance} (smallest margin {smallest})"
    explanation = (
        f"the worst {metric_name(metric)} {where} is {number(reached)}, the bound is "
        f"{number(bound)}{allowance}; {reason(verdict, len(worst), 'the bound')}"
    )
    if says_nothing:
        verdict = "undecided"
        explanation = f"the bound is not above {number(vacuous)} here: any value reaches it, so it decides nothing"
    spread = interval_text(change, len(worst), signed)
    return Evidence(value, spread, len(worst), verdict, explanation + left_out(runs))


def agrees(runs: Sequence[Run], metric: str, other: str, within: float = 0.05) -> Evidence:
    """Are two metrics of the same runs equal within the relative difference `within`?

    The statistic of a seed is the mean of log(metric / other) over its runs, at the last measured step. The rule holds
    when the interval lies within log(1 ± `within`) and fails when it lies outside.

    Raises:
        InputError: values that are not positive.
    """
    done = finished(runs)
    if not done:
        return no_evidence(runs, "no run has finished")
    per_seed = []
    for own in by_setting(done, "seed").values():
        pairs = [(finite_final(run, metric), finite_final(run, other)) for run in own]
        if min(min(pair) for pair in pairs) <= 0:
            raise InputError(f"{own[0].path}: a ratio of {metric} to {other} needs positive values")
        per_seed.append(float(np.mean([math.log(a / b) for a, b in pairs])))
    ratio = mean_interval(per_seed)
    low, high = math.log1p(-within), math.log1p(within)
    verdict = verdict_within(ratio, low, high, len(per_seed))
    value = f"{metric_name(metric)} / {metric_name(other)} = {number(math.exp(ratio.mean))}"
    explanation = f"the two are claimed equal within {100 * within:g} %; " + {
        "holds": "the interval lies within these limits",
        "fails": "the interval lies outside these limits",
    }.get(verdict, "the interval reaches across these limits" if len(per_seed) > 1 else "one seed cannot decide")
    spread = interval_text(ratio, len(per_seed), lambda x: number(exp_or_inf(x)))
    return Evidence(value, spread, len(per_seed), verdict, explanation + left_out(runs))


def unchanged(
    runs: Sequence[Run],
    statistic: Statistic,
    by: str,
    low: Any,
    high: Any,
    factor: float,
    what: str,
) -> Evidence:
    """Is a positive statistic the same at two values of the setting `by`, within a factor?

    The interval is that of log(statistic at `high` / statistic at `low`), paired by seed. The rule holds when it lies
    within ± log `factor` and fails when it lies outside. `what` names the statistic in the explanation.

    Raises:
        InputError: a statistic that is not positive.
    """
    pairs = _paired(runs, by, low, high)
    if isinstance(pairs, Evidence):
        return pairs
    before, after = (np.array([statistic(run) for run in side]) for side in zip(*pairs, strict=True))
    if not min(before.min(), after.min()) > 0:
        raise InputError(f"a ratio of {what} needs positive values, got {min(before.min(), after.min()):.3g}")
    ratio = mean_interval(np.log(after / before))
    limit = math.log(factor)
    verdict = verdict_within(ratio, -limit, limit, len(pairs))
    value = (
        f"{what} {number(float(before.mean()), 3)} → {number(float(after.mean()), 3)} "
        f"(× {number(math.exp(ratio.mean), 3)}) at {setting_name(by)} {number(low)} → {number(high)}"
    )
    explanation = f"the ratio is claimed to be 1 within a factor of {number(factor)}; " + {
        "holds": "the interval lies within",
        "fails": "the interval lies outside",
    }.get(verdict, "the interval reaches across" if len(pairs) > 1 else "one seed cannot decide")
    spread = interval_text(ratio, len(pairs), lambda x: f"× {number(exp_or_inf(x), 3)}")
    return Evidence(value, spread, len(pairs), verdict, explanation + left_out(runs))


def exceeds(runs: Sequence[Run], statistic: Statistic, limit: float, what: str) -> Evidence:
    """Is a statistic, named `what`, larger than `limit`? Each seed contributes the mean over its runs."""
    return against_limit(runs, statistic, limit, what, "larger")


def falls_below(runs: Sequence[Run], statistic: Statistic, limit: float, what: str) -> Evidence:
    """Is a statistic, named `what`, smaller than `limit`? Each seed contributes the mean over its runs."""
    return against_limit(runs, statistic, limit, what, "smaller")


def against_limit(runs: Sequence[Run], statistic: Statistic, limit: float, what: str, expect: Expect) -> Evidence:
    """The rule of `exceeds` or `falls_below`, in the direction `expect`.

    Raises:
        InputError: a statistic that is not finite.
    """
    done = finished(runs)
    if not done:
        return no_evidence(runs, "no run has finished")
    values = [float(np.mean([statistic(run) for run in own])) for own in by_setting(done, "seed").values()]
    if not np.all(np.isfinite(values)):
        raise InputError(f"{done[0].path}: {what} is not finite; measure it again")
    mean = mean_interval(values)
    excess = Interval(mean.mean - limit, mean.low - limit, mean.high - limit)
    verdict = verdict_against_zero(excess, len(values), expect)
    explanation = f"{what} is claimed {expect} than {number(limit)}; {reason(verdict, len(values), number(limit))}"
    spread = interval_text(mean, len(values), number)
    return Evidence(f"{what} {number(mean.mean)}", spread, len(values), verdict, explanation + left_out(runs))


def in_every_run(runs: Sequence[Run], statistic: Statistic, limit: float, what: str) -> Evidence:
    """Is a statistic, named `what`, at most `limit` in every finished run?

    There is no interval: the rule is for consequences of a theorem, which one run can refute.
    """
    done = finished(runs)
    if not done:
        return no_evidence(runs, "no run has finished")
    values = [statistic(run) for run in done]
    seeds = len({run.seed for run in done})
    verdict: Verdict = "holds" if max(values) <= limit else "fails"
    return Evidence(
        f"{what} at most {number(max(values))}",
        f"from {number(min(values))} to {number(max(values))} over {len(done)} runs",
        seeds,
        verdict,
        f"{what} is claimed at most {number(limit)} in every run" + left_out(runs),
    )


def all_hold(*parts: Evidence) -> Evidence:
    """The conjunction of rules: "holds" where every part holds.

    Otherwise the verdict is the first of "fails", "not run" and "undecided" that any part has.
    """
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
    """The value of the setting `by`, other than `without`, that `best` selects among finished runs; None where there is
    none.
    """
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
    """The finished runs at two values of a setting, paired by seed; the evidence to return where there is no pair."""
    done = by_setting(finished(runs), by)
    for value in (low, high):
        if value not in done:
            there = [run for run in runs if run.setting(by) == value]
            return no_evidence(there, f"no finished run has {setting_name(by)} = {number(value)}")
    pairs = pairs_by_seed(done[low], done[high], by)
    return pairs or no_evidence(runs, f"{setting_name(by)} {number(low)} and {number(high)} share no seed")
