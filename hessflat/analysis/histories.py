"""Statistics of a metric over the training of one run: growth, late values, rank correlation, the edge of stability.

A metric that was not measured at a step is NaN there and is skipped, except by `first_value`.
"""

import math
from collections.abc import Sequence

import numpy as np

from hessflat.analysis.results import Run
from hessflat.analysis.statistics import kendall_tau

# A late value is a mean over this many measurements, for stochastic steps scatter it.
LATE = 3


def series(run: Run, metric: str, to_epoch: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
    """The steps `[n]` and values `[n]` of a metric where it was measured, up to and including `to_epoch`."""
    values = run.history(metric)
    known = np.isfinite(values) & (run.history("epoch") <= to_epoch)
    return run.history("step")[known], values[known]


def at_common_steps(several: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The steps `[n]` that all series share, ascending, and the values `[series, n]` at them.

    Each series is a pair of steps and values, as `series` returns.
    """
    known = [dict(zip(steps, values, strict=True)) for steps, values in several]
    common = sorted(set.intersection(*(set(one) for one in known)))
    return np.array(common), np.array([[one[step] for step in common] for one in known])


def first_value(run: Run, metric: str) -> float:
    """The value of a metric at the first measured step."""
    return float(run.history(metric)[0])


def largest_value(run: Run, metric: str) -> float:
    """The maximum of a metric over training; the last value of an oscillating or saturating metric says less."""
    return float(np.nanmax(run.history(metric)))


def growth_factor(run: Run, metric: str, to_epoch: float = math.inf) -> float:
    """The maximum of a metric up to `to_epoch` over its first value."""
    values = series(run, metric, to_epoch)[1]
    return float(values.max() / values[0])


def late_value(run: Run, metric: str) -> float:
    """The mean of the last `LATE` measurements of a metric."""
    return float(series(run, metric)[1][-LATE:].mean())


def remaining_share(run: Run, metric: str) -> float:
    """The late value of a metric over its maximum."""
    return late_value(run, metric) / float(series(run, metric)[1].max())


def late_growth_factor(run: Run, metric: str) -> float:
    """The late value of a metric over its value at half of the steps; both are means over `LATE` measurements."""
    steps, values = series(run, metric)
    halfway = int(np.searchsorted(steps, steps[-1] / 2))
    return late_value(run, metric) / float(values[max(halfway - LATE // 2, 0) :][:LATE].mean())


def tau_over_steps(run: Run, metric: str, other: str) -> float:
    """Kendall's tau-b of two metrics over the steps at which both were measured."""
    first, second = run.history(metric), run.history(other)
    both = np.isfinite(first) & np.isfinite(second)
    return kendall_tau(first[both].tolist(), second[both].tolist())


def stability_limit(rate: float, momentum: float = 0.0) -> float:
    """2(1 + ρ)/η: the largest curvature of a quadratic on which gradient descent with momentum ρ is stable."""
    return 2 * (1 + momentum) / rate


def first_crossing(run: Run, metric: str, limit: float) -> float | None:
    """The first measured step at which a metric is at least `limit`; None where there is none."""
    steps, values = series(run, metric)
    above = steps[values >= limit]
    return float(above[0]) if len(above) else None


def ratio_to_limit(run: Run, metric: str, limit: float) -> float:
    """The mean of a metric from its first crossing of `limit` to the end, over `limit`; its maximum where it never
    crosses.
    """
    steps, values = series(run, metric)
    crossing = first_crossing(run, metric, limit)
    level = values.max() if crossing is None else values[steps >= crossing].mean()
    return float(level / limit)
