"""Rules within groups of runs: a rule that must hold in each group, and Kendall's tau within strata.

A stratum is a group of runs with one seed that differ in a few settings only; `stratum` maps a run to the key that such
runs share. The taus of the strata of a seed are averaged, and a 95 % t-interval of these means over seeds decides.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hessflat.analysis.claims import Order, all_hold
from hessflat.analysis.evidence import interval_text, left_out, no_evidence, reason, verdict_against_zero
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.names import metric_name, number, setting_name
from hessflat.analysis.results import Run, finished, finite_final
from hessflat.analysis.statistics import kendall_tau, mean_interval

Stratum = Callable[[Run], Hashable]


class RunQuantity(NamedTuple):
    """A scalar quantity of a run, and its name in a sentence."""

    name: str
    value: Callable[[Run], float]


def final_metric(metric: str) -> RunQuantity:
    """The quantity that is a metric at the last measured step; it raises an InputError where the metric was not
    measured.
    """
    return RunQuantity(metric_name(metric), lambda run: finite_final(run, metric))


def setting_value(setting: str) -> RunQuantity:
    """The quantity that is the value of a numeric setting."""
    return RunQuantity(setting_name(setting), lambda run: float(run.setting(setting)))


def labelled(label: str, evidence: Evidence) -> Evidence:
    """The evidence with a label before its texts, for the evidence of one group of runs."""
    value, spread = (f"{label}: {text}" if text else "" for text in (evidence.value, evidence.spread))
    return evidence._replace(value=value, spread=spread)


def in_each_group(
    groups: Mapping[str, Sequence[Run]], decide: Callable[[Sequence[Run]], Evidence], nothing: str = "no runs"
) -> Evidence:
    """The conjunction (`all_hold`) of one rule applied to every group of runs; "not run", with the reason `nothing`,
    without groups.
    """
    if not groups:
        return Evidence("", "", 0, "not run", nothing)
    return all_hold(*(labelled(label, decide(group)) for label, group in groups.items()))


def mean_taus(runs: Sequence[Run], first: RunQuantity, second: RunQuantity, stratum: Stratum) -> dict[int, float]:
    """{seed: mean of Kendall's tau-b of two quantities over the strata of that seed}.

    A stratum in which either quantity is constant is left out.
    """
    strata: dict[Hashable, list[Run]] = {}
    for run in finished(runs):
        strata.setdefault((run.seed, stratum(run)), []).append(run)
    taus: dict[int, list[float]] = {}
    for own in strata.values():
        x, y = ([quantity.value(run) for run in own] for quantity in (first, second))
        if len(set(x)) > 1 and len(set(y)) > 1:
            taus.setdefault(own[0].seed, []).append(kendall_tau(x, y))
    return {seed: float(np.mean(own)) for seed, own in taus.items()}


def follows(
    runs: Sequence[Run], first: RunQuantity, second: RunQuantity, stratum: Stratum, expect: Order = "increases"
) -> Evidence:
    """Does the first quantity increase (or decrease) with the second within strata, by the mean tau over seeds?"""
    taus = mean_taus(runs, first, second, stratum)
    if not taus:
        return no_evidence(runs, f"no runs alike have two values of {second.name}")
    change = mean_interval(list(taus.values()))
    verdict = verdict_against_zero(change, len(taus), "larger" if expect == "increases" else "smaller")
    why = reason(verdict, len(taus), "no order (τ = 0)")
    return Evidence(
        f"mean Kendall τ of {first.name} with {second.name} {number(change.mean, 2)}",
        interval_text(change.within(-1.0, 1.0), len(taus), lambda x: number(x, 2)),
        len(taus),
        verdict,
        f"{first.name} {expect} with {second.name}: {why}{left_out(runs)}",
    )


def follows_closer(
    runs: Sequence[Run], target: RunQuantity, closer: RunQuantity, than: RunQuantity, stratum: Stratum
) -> Evidence:
    """Is Kendall's tau of `target` and `closer` larger than that of `target` and `than` within strata, by the mean over
    seeds?
    """
    near, far = (mean_taus(runs, target, other, stratum) for other in (closer, than))
    seeds = sorted(near.keys() & far.keys())
    if not seeds:
        return no_evidence(runs, f"no runs alike have two values of {closer.name} and of {than.name}")
    change = mean_interval([near[seed] - far[seed] for seed in seeds])
    verdict = verdict_against_zero(change, len(seeds), "larger")
    means = [number(float(np.mean([taus[seed] for seed in seeds])), 2) for taus in (near, far)]
    return Evidence(
        f"mean Kendall τ of {target.name} with {closer.name} {means[0]}, with {than.name} {means[1]}",
        "difference " + interval_text(change, len(seeds), lambda x: number(x, 2)),
        len(seeds),
        verdict,
        f"{target.name} is claimed to go with {closer.name} more than with {than.name}; "
        f"{reason(verdict, len(seeds), 'no difference')}{left_out(runs)}",
    )
