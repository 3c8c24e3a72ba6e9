"""Rules over runs that are alike but for a few settings: Kendall's tau within each group of them.

Every group, a stratum, is of one seed. The taus of a seed's strata are averaged, and the seeds' means decide by a 95 %
t-interval, as everywhere.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from hessflat.analysis import wording
from hessflat.analysis.claims import Order, nothing, side
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.names import metric_name, number, setting_name
from hessflat.analysis.pairing import finite_final
from hessflat.analysis.results import Run, finished
from hessflat.analysis.statistics import kendall_tau, mean_interval

Alike = Callable[[Run], Hashable]


class Number(NamedTuple):
    """A number of a run, and what a sentence calls it."""

    words: str
    of: Callable[[Run], float]


def measured(metric: str) -> Number:
    """A metric at the end of training; one that is not there is refused."""
    return Number(metric_name(metric), lambda run: finite_final(run, metric))


def chosen(setting: str) -> Number:
    """A setting."""
    return Number(setting_name(setting), lambda run: float(run.setting(setting)))


def mean_taus(runs: Sequence[Run], first: Number, second: Number, alike: Alike) -> dict[int, float]:
    """Each seed's mean over its strata of Kendall's tau between two numbers; a stratum without two values has none."""
    strata: dict[Hashable, list[Run]] = {}
    for run in finished(runs):
        strata.setdefault((run.seed, alike(run)), []).append(run)
    taus: dict[int, list[float]] = {}
    for own in strata.values():
        x, y = ([quantity.of(run) for run in own] for quantity in (first, second))
        if len(set(x)) > 1 and len(set(y)) > 1:
            taus.setdefault(own[0].seed, []).append(kendall_tau(x, y))
    return {seed: float(np.mean(found)) for seed, found in taus.items()}


def follows(
    runs: Sequence[Run],
    first: Number,
    second: Number,
    alike: Alike,
    expect: Order = "increases",
) -> Evidence:
    """Does the first number increase (or decrease) with the second, among runs that are `alike`?"""
    found = mean_taus(runs, first, second, alike)
    if not found:
        return nothing(runs, f"no runs alike have two values of {second.words}")
    change = mean_interval(list(found.values()))
    verdict = side(change, len(found), "larger" if expect == "increases" else "smaller")
    reason = wording.reason(verdict, len(found), "no order (τ = 0)")
    return Evidence(
        f"mean Kendall τ of {first.words} with {second.words} {number(change.mean, 2)}",
        wording.interval(change.within(-1.0, 1.0), len(found), lambda x: number(x, 2)),
        len(found),
        verdict,
        f"{first.words} {expect} with {second.words}: {reason}{wording.left_out(runs)}",
    )


def follows_closer(runs: Sequence[Run], target: Number, closer: Number, than: Number, alike: Alike) -> Evidence:
    """Does `target` go with `closer` more than it goes with `than`, among runs that are `alike`?"""
    near, far = (mean_taus(runs, target, other, alike) for other in (closer, than))
    seeds = sorted(near.keys() & far.keys())
    if not seeds:
        return nothing(runs, f"no runs alike have two values of {closer.words} and of {than.words}")
    change = mean_interval([near[seed] - far[seed] for seed in seeds])
    verdict = side(change, len(seeds), "larger")
    means = [number(float(np.mean([found[seed] for seed in seeds])), 2) for found in (near, far)]
    return Evidence(
        f"mean Kendall τ of {target.words} with {closer.words} {means[0]}, with {than.words} {means[1]}",
        "difference " + wording.interval(change, len(seeds), lambda x: number(x, 2)),
        len(seeds),
        verdict,
        f"{target.words} is claimed to go with {closer.words} more than with {than.words}; "
        f"{wording.reason(verdict, len(seeds), 'no difference')}{wording.left_out(runs)}",
    )
