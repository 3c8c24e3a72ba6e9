"""The two statistics that claims rest on: a t-interval of a mean over seeds, and Kendall's tau."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and the two ends of its confidence interval."""

    mean: float
    low: float
    high: float

    def widened(self, slack: float) -> "Interval":
        """The interval with a bounded, non-random error of at most `slack` on either side added."""
        return Interval(self.mean, self.low - slack, self.high + slack)

    def within(self, low: float, high: float) -> "Interval":
        """The interval with its ends no further out than where the number can be."""
        return Interval(self.mean, max(self.low, low), min(self.high, high))


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t-interval of the mean; one value has no spread, so its interval is the whole line."""
    array = np.asarray(values, float)
    mean = float(array.mean())
    if array.size < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + level / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Interval(mean, mean - half, mean + half)


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b in [-1, 1], ties allowed; 0 where either side is constant, for it orders nothing."""
    dx, dy = (np.sign(np.subtract.outer(side, side)) for side in (np.asarray(x, float), np.asarray(y, float)))
    scale = math.sqrt(float((dx**2).sum()) * float((dy**2).sum()))
    return float((dx * dy).sum()) / scale if scale else 0.0
