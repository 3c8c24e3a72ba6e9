"""Rules within groups of runs: a rule that must hold in each group, and Kendall's tau within strata.

A stratum is a group of runs that differ in a few settings, and the seed, only; `stratum` maps a run to the key that
such runs share. Within each stratum an order is compared with all others that there could be; see `order_test`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hessflat.analysis.claims import Order
from hessflat.analysis.designs import OrderTest, SignTest
from hessflat.analysis.evidence import (
    BY_T,
    EXACTLY,
    against,
    all_hold,
    decided,
    exact_text,
    exp_or_inf,
    interval_text,
    no_evidence,
    of_test,
)
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.names import metric_name, number, setting_name
from hessflat.analysis.results import Run, finished, finite_final, setting_of
from hessflat.analysis.statistics import estimate, kendall_tau, order_test, sign_flip_test
from hessflat.utils.errors import InputError

Stratum = Callable[[Run], Hashable]


class RunQuantity(NamedTuple):
    """A scalar quantity of a run, its name in a sentence, and whether it is a setting, the same for every seed."""

    name: str
    value: Callable[[Run], float]
    is_setting: bool = False


def final_metric(metric: str) -> RunQuantity:
    """The quantity that is a metric at the last measured step; it raises an InputError where the metric was not
    measured.
    """
    return RunQuantity(metric_name(metric), lambda run: finite_final(run, metric))


def setting_value(setting: str) -> RunQuantity:
    """The quantity that is the value of a numeric setting."""
    return RunQuantity(setting_name(setting), lambda run: float(run.setting(setting)), is_setting=True)


def labelled(label: str, evidence: Evidence) -> Evidence:
    """The evidence with a label before its texts, for the evidence of one group of runs."""
    value, spread = (f"{label}: {text}" if text else "" for text in (evidence.value, evidence.spread))
    return evidence._replace(value=value, spread=spread)


def in_each_group(
    groups: Mapping[str, Sequence[Run]], decide: Callable[[Sequence[Run]], Evidence], each: str
) -> Evidence:
    """The conjunction (`all_hold`) of one rule applied to every group of runs; `each` says what makes a group.

    "not run" without groups.
    """
    rule = f"{decide(()).rule}; for every {each}"
    if not groups:
        return Evidence("", "", 0, "not run", f"there are no runs of any {each}", rule=rule)
    return all_hold(*(labelled(label, decide(group)) for label, group in groups.items()))._replace(rule=rule)


def strata_of(
    runs: Sequence[Run],
    quantities: Sequence[RunQuantity],
    stratum: Stratum,
    setting: Callable[[Run], Hashable] = setting_of,
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """The seeds of each stratum, and the quantities `[q, seeds, settings]` at the settings that all its seeds have.

    `setting` maps a run to what it shares with the runs of other seeds.

    A stratum in which a quantity is constant, or that has fewer than two such settings, is left out.
    """
    cells: dict[Hashable, dict[int, dict[Hashable, Run]]] = {}
    for run in finished(runs):
        cells.setdefault(stratum(run), {}).setdefault(run.seed, {})[setting(run)] = run
    strata = []
    for by_seed in cells.values():
        first, *others = by_seed.values()
        shared = [key for key in first if all(key in own for own in others)]
        grid = [[own[setting] for setting in shared] for own in by_seed.values()]
        values = np.array([[[quantity.value(run) for run in row] for row in grid] for quantity in quantities])
        if len(shared) > 1 and all(np.ptp(one) > 0 for one in values):
            strata.append((tuple(by_seed), values))
    return strata


def follows(
    runs: Sequence[Run],
    first: RunQuantity,
    second: RunQuantity,
    stratum: Stratum,
    expect: Order = "increases",
    setting: Callable[[Run], Hashable] = setting_of,
    alike: str = "runs alike",
) -> Evidence:
    """Does the first quantity increase (or decrease) with the second within strata?

    With a setting as the second, the values of each seed are permuted by themselves. Where both are measured, a setting
    may move both at every seed without one following the other, so that settings are permuted with all their seeds.
    `setting` maps a run to what it shares with the runs of other seeds; `alike` says what runs of a stratum are.
    """
    permuted = "each seed by itself" if second.is_setting else "settings with all their seeds"
    rule = (
        f"{first.name} against {second.name} within {alike}: Kendall τ, all together, "
        f"{'above' if expect == 'increases' else 'below'} 0 by an {EXACTLY} of {permuted}"
    )
    strata = strata_of(runs, (first, second), stratum, setting)
    if not strata:
        return no_evidence(runs, f"no {alike} have two values of {second.name}", rule)
    groups = [(y, x) for _, (y, x) in strata]
    if second.is_setting:
        groups = [(y[None], x[None]) for ys, xs in groups for y, x in zip(ys, xs, strict=True)]
    test, seeds = order_test(groups), len({seed for own, _ in strata for seed in own})
    design = OrderTest(groups, seeds, by_seed=second.is_setting)
    tau = float(np.mean([kendall_tau(x, y) for ys, xs in groups for y, x in zip(ys, xs, strict=True)]))
    return decided(
        runs, rule, of_test(test, seeds, "larger" if expect == "increases" else "smaller", design),
        f"mean Kendall τ of {first.name} with {second.name} {number(tau, 2)}",
        exact_text(test, seeds), seeds, f"{first.name} {expect} with {second.name}", "no order",
    )  # fmt: skip


def not_lowered(
    runs: Sequence[Run],
    first: RunQuantity,
    setting: RunQuantity,
    stratum: Stratum,
    factor: float,
    alike: str = "runs alike",
) -> Evidence:
    """Is a positive quantity at the largest value of a setting not smaller than at the smallest, but for a factor?

    What is tested is the mean over a seed's strata of the logarithm of the ratio.

    Raises:
        InputError: a quantity that is not positive.
    """
    rule = (
        f"{first.name} at the largest {setting.name} over that at the smallest, geometric mean over a seed's {alike}, "
        f"above 1 / {number(factor)} by {BY_T}"
    )
    strata = strata_of(runs, (first, setting), stratum)
    if not strata:
        return no_evidence(runs, f"no {alike} have two values of {setting.name}", rule)
    by_seed: dict[int, list[float]] = {}
    for seeds, (values, settings) in strata:
        if not np.all(values > 0):
            raise InputError(f"a ratio of {first.name} needs positive values, got {number(float(values.min()))}")
        for seed, y, x in zip(seeds, values, settings, strict=True):
            by_seed.setdefault(seed, []).append(float(np.log(y[x.argmax()] / y[x.argmin()])))
    ratio = estimate([float(np.mean(own)) for own in by_seed.values()])
    return decided(
        runs, rule, against(ratio, -float(np.log(factor)), "larger", float(np.log(factor)), "log"),
        f"{first.name} × {number(exp_or_inf(ratio.mean), 3)} from the smallest to the largest {setting.name}",
        interval_text(ratio.interval, len(by_seed), lambda x, digits: f"× {number(exp_or_inf(x), digits)}"),
        len(by_seed), f"the claim is a ratio above 1 / {number(factor)}", "this limit",
    )  # fmt: skip


def follows_closer(
    runs: Sequence[Run],
    target: RunQuantity,
    closer: RunQuantity,
    than: RunQuantity,
    stratum: Stratum,
    alike: str = "runs alike",
) -> Evidence:
    """Is Kendall's tau of `target` and `closer` larger than that of `target` and `than`, within strata?

    The difference of the two, a mean over the seeds of a stratum, is tested by turning the signs of any of the strata.
    """
    rule = (
        f"Kendall τ of {target.name} with {closer.name} less that with {than.name}, within {alike}, above 0 by an "
        f"exact test that turns the signs of any of these groups"
    )
    strata = strata_of(runs, (target, closer, than), stratum)
    if not strata:
        return no_evidence(runs, f"no {alike} have two values of {closer.name} and of {than.name}", rule)
    near, far = (
        [np.mean([kendall_tau(x, y) for x, y in zip(values[0], values[i], strict=True)]) for _, values in strata]
        for i in (1, 2)
    )
    values, seeds = np.subtract(near, far).tolist(), len({seed for own, _ in strata for seed in own})
    test = sign_flip_test(values)
    means = [number(float(np.mean(taus)), 2) for taus in (near, far)]
    return decided(
        runs, rule, of_test(test, seeds, "larger", SignTest(values, seeds, by_seed=False)),
        f"mean Kendall τ of {target.name} with {closer.name} {means[0]}, with {than.name} {means[1]}",
        f"{exact_text(test, seeds)}, {len(strata)} groups of {alike}", seeds,
        f"{target.name} is claimed to follow {closer.name} more than {than.name}", "no difference",
    )  # fmt: skip
