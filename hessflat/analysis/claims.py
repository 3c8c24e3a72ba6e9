"""Rules that compare settings: they turn finished runs, paired by seed, into evidence, and say in a sentence how.

A rule gives the chance of evidence as strong as there is, for the claim and against it; `decisions` makes verdicts of
chances. With fewer than two seeds nothing is decided, because one seed has no spread. Only runs with status "done"
decide; each explanation names the runs that are left out. Where there is nothing to compare, a claim is undecided if a
run diverged or failed, else "not run". Where runs could not tell for or against it, it is "not applicable".

Every rule raises an InputError for a metric that was not measured or is not finite. Rules on one number of a run are in
`limits`. The module is long because each rule, with its sentence and its words, can be read by itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hessflat.analysis.decisions import Chance, verdict_of
from hessflat.analysis.designs import FIFTH, LN_FACTOR, POINT, OrderTest
from hessflat.analysis.evidence import (
    BY_T,
    EXACTLY,
    Expect,
    Statistic,
    against,
    between,
    change_text,
    decided,
    effect_text,
    exact_text,
    exp_or_inf,
    interval_text,
    no_evidence,
    not_applicable,
    of_test,
    seed_count,
    side_of,
    signed,
)
from hessflat.analysis.experiment import Effect, Evidence
from hessflat.analysis.names import is_fraction, metric_name, number, quantity, setting_name
from hessflat.analysis.results import (
    Run,
    by_setting,
    error_bound,
    finished,
    finite_final,
    num_examples,
    paired_answers,
    pairs_by_seed,
    require_unique_pairs,
)
from hessflat.analysis.statistics import (
    estimate,
    estimate_of_counts,
    examples_variance,
    kendall_tau,
    least_variance,
    order_test,
)
from hessflat.utils.errors import InputError

Order = Literal["increases", "decreases"]


class Best(NamedTuple):
    """The value of a setting with the best mean of `metric` over seeds, by the rule of one standard error.

    Of the values whose `metric` is within one standard error of the best, paired by seed, it is the largest one of the
    setting (Breiman et al. 1984), so that a few examples do not choose what changes nothing. Selecting on the
    validation split and comparing on the test split keeps the comparison free of selection bias.
    """

    metric: str = "validation_accuracy"
    largest: bool = True


class Extreme(NamedTuple):
    """The smallest or the largest value of a setting."""

    word: Literal["smallest", "largest"]


SMALLEST, LARGEST = Extreme("smallest"), Extreme("largest")


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

    What is tested is the mean over seeds of log(high / low), or of high − low. Where runs have an error bound
    `<metric>_bound`, it counts as a systematic error of both. For a difference of accuracies the sampling error of the
    examples counts too. The claim is not applicable where the two are equal in every seed: nothing moves there.

    Args:
        runs: the runs of one experiment; those that have not finished are left out.
        metric: the name of a metric, read at the last measured step.
        by: the setting that is compared, by its dotted name.
        low: a value of the setting, or an `Extreme`.
        high: another value, an `Extreme`, or a `Best` that selects one of the values other than `low`.
        expect: the claimed direction.
        scale: "ratio" compares logarithms, "difference" the values themselves, which suits accuracies.

    Raises:
        InputError: values that are not positive with the scale "ratio"; two runs that share seed and setting; a metric
            that was not measured or is not finite.
    """
    name, rule = metric_name(metric), _comparison(metric, by, low, high, expect, scale)
    pairs = _paired(runs, by, low, high, rule)
    if isinstance(pairs, Evidence):
        return pairs
    low, high = (run.setting(by) for run in pairs[0])
    before, after = (np.array([finite_final(run, metric) for run in side]) for side in zip(*pairs, strict=True))
    levels = f"{setting_name(by)} {number(low)} → {number(high)}"
    if len(pairs) > 1 and np.all(before == after):
        equal = f"{quantity(metric, before.mean())} at {levels}"
        return not_applicable(rule, f"{name} is the same in every seed", len(pairs), equal)
    counted = ""
    if scale == "ratio":
        if min(before.min(), after.min()) <= 0:
            raise InputError(f"a ratio of {metric} needs positive values; compare by difference")
        slack = [
            error_bound(first, metric) / a + error_bound(second, metric) / b
            for (first, second), a, b in zip(pairs, before, after, strict=True)
        ]
        change = estimate(np.log(after / before), float(np.mean(slack)))
        chance = against(change, 0.0, expect, LN_FACTOR, "log")
    else:
        slack = [error_bound(first, metric) + error_bound(second, metric) for first, second in pairs]
        variance, counted, examples = _examples_variance(metric, pairs)
        change = estimate(after - before, float(np.mean(slack)), variance)
        least = POINT if is_fraction(metric) else FIFTH * abs(float(before.mean()))
        chance = against(change, 0.0, expect, least, "share" if is_fraction(metric) else "plain", examples)

    effect = effect_text(metric, change.mean, scale)
    value = f"{quantity(metric, before.mean())} → {quantity(metric, after.mean())} ({effect}) at {levels}"
    spread = interval_text(change.interval, len(pairs), lambda x, digits: change_text(metric, x, scale, digits))
    agreeing = int(np.sum(after > before if expect == "larger" else after < before))
    explanation = (
        f"{name} is {expect} at {setting_name(by)} {number(high)} than at {number(low)} "
        f"in {agreeing} of {seed_count(len(pairs))}{counted}"
    )
    return decided(
        runs, rule, chance, value, spread, len(pairs), explanation, "no change",
        Effect(change.interval, scale),
    )  # fmt: skip


def _comparison(metric: str, by: str, low: Any, high: Any, expect: Expect, scale: str) -> str:
    """The sentence of `compare`."""
    joined, limit = ("over", 1) if scale == "ratio" else ("less", 0)
    return (
        f"{metric_name(metric)} at {_level(by, high)} {joined} that at {_level(by, low)}, paired by seed, "
        f"{side_of(expect)} {limit} by {BY_T}"
    )


def _level(by: str, value: Any) -> str:
    """What a sentence calls a value of a setting."""
    if isinstance(value, Best):
        return f"the best {setting_name(by)} by {metric_name(value.metric)} (the largest within one standard error)"
    if isinstance(value, Extreme):
        return f"the {value.word} {setting_name(by)}"
    return f"{setting_name(by)} {number(value)}"


def _examples_variance(metric: str, pairs: Sequence[tuple[Run, Run]]) -> tuple[float, str, int]:
    """The variance that a mean difference of accuracies has because it is over so many examples, and a word on it; and
    their number, where it is the least there can be.

    Seeds that share their examples have a spread that omits it. Where seeds have examples of their own, these may
    overlap, and where runs did not store which are right nothing is known of it: then it is the least there can be. A
    paired difference d over n examples has (|d| − d²) / n where every example on which the two disagree favours the
    same one (McNemar), and one such example is added, for equal accuracies are not known without error
    (`least_variance`).
    """
    known = paired_answers(metric, pairs)
    count = known[0].shape[1] if known else num_examples(metric, pairs)
    if count is None:
        return 0.0, "", 0
    least = least_variance(float(np.mean([finite_final(b, metric) - finite_final(a, metric) for a, b in pairs])), count)
    if known is None:
        why = f" (the interval includes the least error of {count} examples: which of them are right is not stored)"
        return least, why, count
    differences, shared = known
    if not shared:
        why = f" (the interval includes the least error of the {count} examples that each seed has of its own)"
        return least, why, count
    variance = max(examples_variance(differences), 1 / count**2)
    return variance, f" (the interval accounts for which of {count} examples each seed gets right)", 0


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
    side = "above" if expect == "increases" else "below"
    rule = f"{what} against {setting_name(by)}: Kendall τ within seeds {side} 0 by an {EXACTLY}"
    if len(settings) < 2:
        return no_evidence(runs, f"the finished runs have fewer than two values of {setting_name(by)}", rule)
    require_unique_pairs(done, by)
    values = {run.folder: statistic(run) for run in done}
    groups = [
        (np.array([[float(run.setting(by)) for run in own]]), np.array([[values[run.folder] for run in own]]))
        for own in by_setting(done, "seed").values()
        if len(own) > 1
    ]
    if not groups:
        return no_evidence(runs, f"no seed has two values of {setting_name(by)}", rule)
    tau, test = float(np.mean([kendall_tau(x[0], y[0]) for x, y in groups])), order_test(groups)
    design = OrderTest(groups, len(groups), by_seed=True)
    chance = of_test(test, len(groups), "larger" if expect == "increases" else "smaller", design)
    means = [float(np.mean([values[run.folder] for run in group])) for group in settings.values()]
    steps = np.diff(means) if expect == "increases" else -np.diff(means)
    value = (
        f"{' → '.join(write(mean) for mean in means)} at {setting_name(by)} "
        f"{', '.join(number(setting) for setting in settings)} (Kendall τ {number(tau, 2)})"
    )
    monotone = "are" if np.all(steps > 0) else "are not"
    explanation = f"the means over seeds of {what} {monotone} in {expect[:-2]}ing order"
    return decided(
        runs, rule, chance, value, exact_text(test, len(groups)), len(groups), explanation, "no order",
        _first_to_last(groups),
    )  # fmt: skip


def _first_to_last(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> Effect | None:
    """The ratio of the values at the largest and the smallest setting, over seeds; None where one is not positive."""
    ends = [(y[0, x[0].argmin()], y[0, x[0].argmax()]) for x, y in groups]
    if min(min(pair) for pair in ends) <= 0:
        return None
    return Effect(estimate([math.log(last / first) for first, last in ends]).interval, "ratio")


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
    at_high = which.chance is None or which.chance.holds <= which.chance.fails
    second = compare(runs, metric, by, low, high, expect if at_high else _other(expect), "ratio")
    rule = (
        f"which solution is better: {which.rule}, or the other way round; of the better one {metric_name(metric)} "
        f"{expect}, by the ratio over seeds and {BY_T}"
    )
    said = {
        "holds": f"{setting_name(by)} above {number(low)} is the better one",
        "fails": f"{setting_name(by)} {number(low)} is the better one",
    }.get(which.verdict, "which one is better is undecided")
    if not isinstance(high, Best) and which.verdict == "holds":
        said = f"{setting_name(by)} {number(high)} is the better one"
    # Either evidence may be the weaker; the direction of the first has been taken into the second.
    chance = None
    if which.chance and second.chance:
        first = min(which.chance.holds, which.chance.fails)
        parts = which.chance, second.chance
        chance = Chance(max(first, second.chance.holds), max(first, second.chance.fails), parts=parts)
    without = which if which.chance is None else second
    return Evidence(
        "; ".join(part.value for part in (second, which) if part.value),
        "; ".join(part.spread for part in (second, which) if part.spread),
        min(second.seeds, which.seeds),
        verdict_of(chance) if chance else without.verdict,
        f"{said} ({which.explanation}); {second.explanation}",
        second.effect,
        rule,
        chance,
    )


def _other(expect: Expect) -> Expect:
    return "smaller" if expect == "larger" else "larger"


def unchanged(
    runs: Sequence[Run],
    statistic: Statistic,
    by: str,
    low: Any,
    high: Any,
    factor: float,
    what: str,
    only: Literal["both", "not smaller"] = "both",
) -> Evidence:
    """Is a positive statistic the same at two values of the setting `by`, within a factor?

    What is tested is log(statistic at `high` / statistic at `low`), paired by seed: whether it lies within ± log
    `factor`, or with `only="not smaller"` above −log `factor`. `what` names the statistic.

    Raises:
        InputError: a statistic that is not positive.
    """
    limits = f"within a factor of {number(factor)} of 1" if only == "both" else f"above 1 / {number(factor)}"
    rule = f"{what} at {_level(by, high)} over that at {_level(by, low)}, paired by seed, {limits} by {BY_T}"
    pairs = _paired(runs, by, low, high, rule)
    if isinstance(pairs, Evidence):
        return pairs
    low, high = (run.setting(by) for run in pairs[0])
    before, after = (np.array([statistic(run) for run in side]) for side in zip(*pairs, strict=True))
    if not min(before.min(), after.min()) > 0:
        raise InputError(f"a ratio of {what} needs positive values, got {min(before.min(), after.min()):.3g}")
    ratio, limit = estimate(np.log(after / before)), math.log(factor)
    chance = between(ratio, -limit, limit, "log") if only == "both" else against(ratio, -limit, "larger", limit, "log")
    value = (
        f"{what} {number(float(before.mean()), 3)} → {number(float(after.mean()), 3)} "
        f"(× {number(math.exp(ratio.mean), 3)}) at {setting_name(by)} {number(low)} → {number(high)}"
    )
    spread = interval_text(ratio.interval, len(pairs), lambda x, digits: f"× {number(exp_or_inf(x), digits)}")
    return decided(runs, rule, chance, value, spread, len(pairs), f"the claim is a ratio {limits}", "these limits")


def same_count(
    runs: Sequence[Run], count: Callable[[Run], int], by: str, low: Any, high: Any, within: int, what: str
) -> Evidence:
    """Are two counts, at two values of the setting `by`, on average at most `within` apart?

    They are where their difference, paired by seed, lies within ± (`within` + 1/2), that of counts being whole.
    """
    rule = (
        f"{what} at {_level(by, high)} less that at {_level(by, low)}, paired by seed, within ± {within + 0.5:g} by "
        f"{BY_T}, of whole numbers"
    )
    pairs = _paired(runs, by, low, high, rule)
    if isinstance(pairs, Evidence):
        return pairs
    low, high = (run.setting(by) for run in pairs[0])
    before, after = ([count(run) for run in side] for side in zip(*pairs, strict=True))
    change = estimate_of_counts(np.subtract(after, before).tolist())
    limit = within + 0.5
    return decided(
        runs, rule, between(change, -limit, limit),
        f"{what} {', '.join(map(str, before))} → {', '.join(map(str, after))} at {setting_name(by)} {number(low)} → "
        f"{number(high)}",
        interval_text(change.interval, len(pairs), signed), len(pairs),
        f"the claim is a difference of at most {within}", "these limits",
    )  # fmt: skip


def best_setting(runs: Sequence[Run], by: str, best: Best, without: Any = None) -> Any | None:
    """The value of the setting `by`, other than `without`, that `best` selects among finished runs; None where there is
    none.
    """
    groups = {value: group for value, group in by_setting(finished(runs), by).items() if value != without}
    if not groups:
        return None
    sign = 1 if best.largest else -1
    means = {
        value: sign * float(np.mean([finite_final(run, best.metric) for run in own])) for value, own in groups.items()
    }
    top = max(means, key=lambda value: means[value])
    for value in reversed(groups):  # from the largest down
        pairs = pairs_by_seed(groups[value], groups[top], by)
        if value == top or not pairs:
            continue
        behind = [sign * (finite_final(b, best.metric) - finite_final(a, best.metric)) for a, b in pairs]
        variance, _, _ = _examples_variance(best.metric, pairs)
        spread = estimate(behind, variance=variance)
        error = spread.error if len(pairs) > 1 else math.sqrt(variance)
        if spread.mean <= error:
            return max(value, top)
    return top


def _paired(runs: Sequence[Run], by: str, low: Any, high: Any, rule: str) -> list[tuple[Run, Run]] | Evidence:
    """The finished runs at two values of a setting, paired by seed; the evidence to return where there is no pair."""
    done = by_setting(finished(runs), by)
    chosen = []
    for value in (low, high):
        if isinstance(value, Best):
            value = best_setting(runs, by, value, without=low)
            if value is None:
                why = f"no finished run has {setting_name(by)} other than {number(low)}"
                return no_evidence(runs, why, rule)
        if isinstance(value, Extreme):
            if len(done) < 2:
                return no_evidence(runs, f"the finished runs have fewer than two values of {setting_name(by)}", rule)
            value = list(done)[0 if value == SMALLEST else -1]
        if value not in done:
            there = [run for run in runs if run.setting(by) == value]
            return no_evidence(there, f"no finished run has {setting_name(by)} = {number(value)}", rule)
        chosen.append(value)
    pairs = pairs_by_seed(done[chosen[0]], done[chosen[1]], by)
    return pairs or no_evidence(runs, f"{number(chosen[0])} and {number(chosen[1])} share no seed", rule)
