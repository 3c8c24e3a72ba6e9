"""Statistics over runs: confidence intervals, rank correlation, least-squares fits, tests."""

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
        """The interval with a systematic error of at most `slack` added on either side."""
        return Interval(self.mean, self.low - slack, self.high + slack)

    def within(self, low: float, high: float) -> "Interval":
        """The interval clipped to the range [`low`, `high`] of possible values."""
        return Interval(self.mean, max(self.low, low), min(self.high, high))

    def with_examples(self, count: int | None) -> "Interval":
        """The interval of a difference of accuracies with the sampling error of `count` examples added; unchanged for
        None.

        All seeds share their test examples, so the spread over seeds omits this error. The variance of a paired
        difference d over n examples is at least |d| (1 − |d|) / n; it attains this value when every example on which
        the two solutions disagree favours the same one (McNemar). That minimum is added in quadrature.
        """
        if count is None:
            return self
        from_examples = 1.96 * math.sqrt(abs(self.mean) * (1 - abs(self.mean)) / count)
        below, above = (math.hypot(side, from_examples) for side in (self.mean - self.low, self.high - self.mean))
        return Interval(self.mean, self.mean - below, self.mean + above)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t-interval of the mean at confidence `level`; the whole real line for one value."""
    array = np.asarray(values, float)
    mean = float(array.mean())
    if array.size < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + level / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Interval(mean, mean - half, mean + half)


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b in [−1, 1], with ties; 0 where either side is constant."""
    dx, dy = (np.sign(np.subtract.outer(side, side)) for side in (np.asarray(x, float), np.asarray(y, float)))
    scale = math.sqrt(float((dx**2).sum()) * float((dy**2).sum()))
    return float((dx * dy).sum()) / scale if scale else 0.0


class OrderTest(NamedTuple):
    """The exact test of whether two quantities go in one order, over groups.

    `larger` and `smaller` are the probabilities, if there is no order, of a sum of concordances at least as large, or
    as small, as the one that is there; `floor` is the least probability that the groups can show.
    """

    larger: float
    smaller: float
    floor: float


# Above so many arrangements, as many of them are drawn at random.
_MOST_ARRANGEMENTS = 20_000


def order_test(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> OrderTest:
    """The permutation test of Kendall's concordances Σ sign(x_i − x_j) sign(y_i − y_j), summed over groups (Kendall
    1938).

    A group is x and y, both `[n, k]`: k values, which may be in any order if there is none, n times in the same order.
    Seeds that share what decides their order share one such group; other groups are permuted by themselves.
    """
    total, observed = np.ones(1), 0
    for x, y in groups:
        first, second = (np.sign(side[:, :, None] - side[:, None, :]).astype(np.int64) for side in (x, y))
        most = int(np.abs(first).sum()) // 2
        values = _concordances(first, second)
        observed += int((first * second).sum()) // 2 + most
        # From −most to most, in one array with the sums of the groups before.
        total = np.convolve(total, np.bincount(values + most, minlength=2 * most + 1) / len(values))
    reachable = total[total > 0]
    return OrderTest(
        min(float(total[observed:].sum()), 1.0),
        min(float(total[: observed + 1].sum()), 1.0),
        float(min(reachable[0], reachable[-1])),
    )


def _concordances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[arrangements] The sums of concordances of signs `[n, k, k]` for every order of the second side, or for many."""
    size = first.shape[-1]
    if math.factorial(size) <= _MOST_ARRANGEMENTS:
        orders = np.array(list(itertools.permutations(range(size))))
    else:
        generator = np.random.default_rng(0)
        drawn = [generator.permutation(size) for _ in range(_MOST_ARRANGEMENTS - 1)]
        orders = np.array([np.arange(size), *drawn])
    # Sums over the pairs of a position with another, of integers.
    flat = np.einsum("nij,nkl->ijkl", first, second).reshape(size * size, -1)
    pairs = np.arange(size * size)
    places = orders[:, :, None] * size + orders[:, None, :]
    result: np.ndarray = flat[pairs, places.reshape(len(orders), -1)].sum(axis=1) // 2
    return result


def sign_flip_test(differences: Sequence[float] | np.ndarray) -> OrderTest:
    """The exact test of whether differences `[n]` are above 0 on average, by turning the signs of any of them."""
    values = np.asarray(differences, float)
    if 2 ** len(values) <= _MOST_ARRANGEMENTS:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    else:
        generator = np.random.default_rng(0)
        drawn = generator.choice((1, -1), (_MOST_ARRANGEMENTS, len(values)))
        signs = np.concatenate([np.ones((1, len(values))), drawn])
    sums = signs @ values
    near = 1e-9 * np.abs(values).sum()  # sums that are equal but for their rounding
    larger, smaller = (float(np.mean(side)) for side in (sums >= sums[0] - near, sums <= sums[0] + near))
    return OrderTest(larger, smaller, float(np.mean(sums >= np.abs(values).sum() - near)))


def geometric_mean(values: Iterable[np.ndarray]) -> float:
    """The geometric mean of all entries of all arrays; zeros are replaced by the smallest normal float."""
    together = np.maximum(np.concatenate([np.atleast_1d(value) for value in values]), np.finfo(float).tiny)
    return float(np.exp(np.log(together).mean()))


def power_law_exponent(x: np.ndarray, y: np.ndarray) -> float:
    """The exponent b of y = a x^b, by least squares of log y on log x, both `[n]`."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def exponential_rate(x: np.ndarray, y: np.ndarray) -> float:
    """The rate b of y = a exp(b x), by least squares of log y on x, both `[n]`."""
    return float(np.polyfit(x, np.log(y), 1)[0])


def exponential_r_squared(x: np.ndarray, y: np.ndarray) -> float:
    """R² of the fit of `exponential_rate`."""
    return float(np.corrcoef(x, np.log(y))[0, 1] ** 2)


def decay_rate_of_shares(sizes: np.ndarray, shares: np.ndarray, samples: np.ndarray) -> float:
    """The rate b of share = exp(−b size), where each share `[n]` is a fraction of `samples` `[n]` trials.

    Least squares of log share on size through the origin, weighted by the inverse variance of the logarithm of a
    binomial share.
    """
    weights = shares * samples / (1 - shares)
    return float(-np.sum(weights * sizes * np.log(shares)) / np.sum(weights * sizes**2))


def welch_p_value(ours: Sequence[float], mean: float, std: float, count: int) -> float:
    """The two-sided p-value of Welch's test of equal means, of a sample and one of known mean, std and count."""
    result = stats.ttest_ind_from_stats(
        np.mean(ours), np.std(ours, ddof=1), len(ours), mean, std, count, equal_var=False
    )
    return float(result.pvalue)


def in_same_order(first: np.ndarray, second: np.ndarray, paired: bool) -> list[bool]:
    """Whether each pair of samples is ordered as the two means are.

    With `paired`, samples at the same index form a pair; otherwise all pairs of a sample of `first` with one of
    `second` do.
    """
    order = np.sign(second.mean() - first.mean())
    pairs = zip(first, second, strict=True) if paired else itertools.product(first, second)
    return [bool(np.sign(b - a) == order) for a, b in pairs]
