"""Runs paired by seed, and what limits the differences between them: error bounds and the number of examples."""

import math
from collections.abc import Sequence
from typing import Any

from hessflat.analysis.results import Run
from hessflat.analysis.statistics import Interval
from hessflat.utils.errors import InputError


def pairs_by_seed(low: Sequence[Run], high: Sequence[Run], by: str) -> list[tuple[Run, Run]]:
    refuse_twins([*low, *high], by)
    after = {run.seed: run for run in high}
    return [(run, after[run.seed]) for run in low if run.seed in after]


def refuse_twins(runs: Sequence[Run], by: str) -> None:
    """Two runs with one seed and one setting differ in something else: pairing them mixes two questions."""
    seen: dict[tuple[Any, int], Run] = {}
    for run in runs:
        other = seen.setdefault((run.setting(by), run.seed), run)
        if other is not run:
            raise InputError(
                f"{run.path} and {other.path} share {by} and seed; compare runs that differ in nothing else"
            )


def finite_final(run: Run, metric: str) -> float:
    value = run.final(metric)
    if not math.isfinite(value):
        raise InputError(f"{run.path}: {metric} is {value} although the run is done; measure it again")
    return value


def error_bound(run: Run, metric: str) -> float:
    value = run.final_or_nan(f"{metric}_bound")
    return value if math.isfinite(value) else 0.0


def num_examples(metric: str, pairs: Sequence[tuple[Run, Run]]) -> int | None:
    """How many examples an accuracy is a share of; None for other metrics."""
    split, _, quantity_name = metric.partition("_")
    if quantity_name != "accuracy":
        return None
    return min(run.manifest.get("examples", {}).get(split, 0) for pair in pairs for run in pair) or None


def with_examples(change: Interval, count: int | None) -> Interval:
    """Add the sampling of `count` examples to an interval for a difference of accuracies.

    Seeds share their examples, so a gain of one example in every seed has no spread and still says little. The
    variance of a paired difference d over n examples is at least |d| (1 − |d|) / n, reached when every example on
    which the two disagree goes the same way (McNemar); that least variance is what is added.
    """
    if count is None:
        return change
    from_examples = 1.96 * math.sqrt(abs(change.mean) * (1 - abs(change.mean)) / count)
    below, above = (math.hypot(side, from_examples) for side in (change.mean - change.low, change.high - change.mean))
    return Interval(change.mean, change.mean - below, change.mean + above)
