"""Statistics of runs and of what was measured: intervals, rank correlation, least-squares fits, tests."""

import itertools
import math
from collections.abc import Iterable, Sequence
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

    def with_examples(self, count: int | None) -> "Interval":
        """The interval of a difference of accuracies, with the sampling of `count` examples added; as it is for None.

        Seeds share their examples, so a gain of one example in every seed has no spread and still says little. The
        variance of a paired difference d over n examples is at least |d| (1 − |d|) / n, reached when every example on
        which the two disagree goes the same way (McNemar); that least variance is what is added.
        """
        if count is None:
            return self
        from_examples = 1.96 * math.sqrt(abs(self.mean) * (1 - abs(self.mean)) / count)
        below, above = (math.hypot(side, from_examples) for side in (self.mean - self.low, self.high - self.mean))
        return Interval(self.mean, self.mean - below, self.mean + above)


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


def geometric_mean(values: Iterable[np.ndarray]) -> float:
    """The geometric mean of all entries of all arrays; zeros count as the smallest float."""
    together = np.maximum(np.concatenate([np.atleast_1d(value) for value in values]), np.finfo(float).tiny)
    return float(np.exp(np.log(together).mean()))


def power_law_exponent(x: np.ndarray, y: np.ndarray) -> float:
    """The exponent b of y = a x^b `[n]`, by least squares of log y on log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def exponential_rate(x: np.ndarray, y: np.ndarray) -> float:
    """The rate b of y = a exp(b x) `[n]`, by least squares of log y on x."""
    return float(np.polyfit(x, np.log(y), 1)[0])


def exponential_r_squared(x: np.ndarray, y: np.ndarray) -> float:
    """The R² of that fit."""
    return float(np.corrcoef(x, np.log(y))[0, 1] ** 2)


def decay_rate_of_shares(sizes: np.ndarray, shares: np.ndarray, samples: np.ndarray) -> float:
    """The rate b of share = exp(−b size) `[n]`, each share counted in so many samples.

    By least squares of log share on size through the origin, weighted by the inverse variance of a binomial's log.
    """
    weights = shares * samples / (1 - shares)
    return float(-np.sum(weights * sizes * np.log(shares)) / np.sum(weights * sizes**2))


def welch_p_value(ours: Sequence[float], mean: float, std: float, count: int) -> float:
    """Welch's two-sided p-value for equal means of a sample and of one of which mean, std and size are known."""
    result = stats.ttest_ind_from_stats(
        np.mean(ours), np.std(ours, ddof=1), len(ours), mean, std, count, equal_var=False
    )
    return float(result.pvalue)


def in_same_order(first: np.ndarray, second: np.ndarray, paired: bool) -> list[bool]:
    """For samples of two numbers, whether each pair of them is ordered as the two means are.

    `paired` takes samples at the same place together; otherwise every sample of one with every sample of the other.
    """
    order = np.sign(second.mean() - first.mean())
    pairs = zip(first, second, strict=True) if paired else itertools.product(first, second)
    return [bool(np.sign(b - a) == order) for a, b in pairs]
