"""Statistics over runs: confidence intervals, rank correlation, least-squares fits, tests."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import stats

Array = TypeVar("Array", float, np.ndarray)
ROUNDING = 1e-12  # relative spread that rounding alone makes


class Interval(NamedTuple):
    """A mean and the two ends of its confidence interval."""

    mean: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A mean over seeds with its standard error, whose square has `degrees` degrees of freedom.

    `slack` bounds a systematic error. With no degrees of freedom, as of one seed, nothing is known of the error.
    `values` are those of the seeds; `variance` is the part of the squared error that more seeds leave as it is.
    """

    mean: float
    error: float
    degrees: float
    slack: float = 0.0
    values: tuple[float, ...] = ()
    variance: float = 0.0

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; infinite for one seed."""
        return math.sqrt(max(self.error**2 - self.variance, 0.0) * len(self.values))

    @property
    def is_one_number(self) -> bool:
        """Whether all seeds have one number, but for its rounding."""
        return self.error <= ROUNDING * abs(self.mean)

    @property
    def interval(self) -> Interval:
        """Student's 95 % interval, the slack added on either side; the whole real line for one seed.

        Of one number in every seed it is that of signs: the number, or with fewer than six seeds the whole line.
        """
        if self.above(-math.inf) > 0.025:
            return Interval(self.mean, -math.inf, math.inf)
        half = float(stats.t.ppf(0.975, self.degrees)) * self.error + self.slack
        return Interval(self.mean, self.mean - half, self.mean + half)

    def above(self, limit: float) -> float:
        """The probability of a mean at least this far above `limit` where the expectation is `limit`; 1 for one seed.

        It is at most 2.5 % where the interval lies above the limit. Where all seeds have one number, whose spread
        is not known, it is that of as many signs.
        """
        distance = self.mean - self.slack - limit
        if not self.degrees or distance <= 0:
            return 1.0
        if self.is_one_number:
            return float(0.5 ** len(self.values))
        return float(stats.t.sf(distance / self.error, self.degrees))

    def below(self, limit: float) -> float:
        """The probability of a mean at least this far below `limit`, as `above`."""
        return self._replace(mean=-self.mean).above(-limit)


def estimate(values: Sequence[float] | np.ndarray, slack: float = 0.0, variance: float = 0.0) -> Estimate:
    """The mean of one value a seed; `variance` is what else the mean's variance has, known with no error."""
    array = np.asarray(values, float)
    mean, count = float(array.mean()), array.size
    own = tuple(array.tolist())
    if count < 2:
        return Estimate(mean, math.inf, 0.0, slack, own)
    between = float(array.var(ddof=1)) / count
    degrees = satterthwaite(count, between, variance) if between else math.inf if variance else count - 1.0
    return Estimate(mean, math.sqrt(between + variance), float(degrees), slack, own, variance)


def satterthwaite(count: int, between: Array, known: float) -> Array:
    """The degrees of freedom of a squared error, of which `between` is estimated from so many seeds (Satterthwaite
    1946).
    """
    return (count - 1) * ((between + known) / between) ** 2


def examples_variance(differences: np.ndarray) -> float:
    """What the examples that all seeds share add to the variance of a mean difference of accuracies.

    `differences` is `[seeds, n]`, −1, 0 or 1 for each seed and example. Of a sum of effects of seeds, of examples and
    of the rest, it is the component of examples over n, by the mean squares of the two-way table without repetition;
    the spread of means over seeds has the other components.
    """
    seeds, count = differences.shape
    if seeds < 2 or count < 2:
        return 0.0
    mean, of_seeds, of_examples = differences.mean(), differences.mean(axis=1, keepdims=True), differences.mean(axis=0)
    rest = float(((differences - of_seeds - of_examples + mean) ** 2).sum()) / ((seeds - 1) * (count - 1))
    between = seeds * float(((of_examples - mean) ** 2).sum()) / (count - 1)
    return max(between - rest, 0.0) / (seeds * count)


def least_variance(difference: float, count: int) -> float:
    """The least variance of a mean difference of accuracies over so many examples."""
    return (abs(difference) + 1 / count - difference**2) / count


def estimate_of_counts(differences: Sequence[int]) -> Estimate:
    """The mean of one difference of two counts a seed.

    What is counted is a whole number: where all seeds have the same one, their spread says nothing of what was rounded.
    So the variance of a difference is taken as that of two roundings, 1/6, at least (Sheppard 1898).
    """
    plain = estimate(differences)
    return plain._replace(error=max(plain.error, math.sqrt(1 / 6 / len(differences))))


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b in [−1, 1], with ties; 0 where either side is constant."""
    dx, dy = (np.sign(np.subtract.outer(side, side)) for side in (np.asarray(x, float), np.asarray(y, float)))
    scale = math.sqrt(float((dx**2).sum()) * float((dy**2).sum()))
    return float((dx * dy).sum()) / scale if scale else 0.0


class ExactTest(NamedTuple):
    """The probabilities, if there is nothing to find, of a number at least as large, or as small, as the one there is.

    `floor` is the least that either could be, whatever the runs showed.
    """

    larger: float
    smaller: float
    floor: float


# Above so many arrangements, as many of them are drawn at random.
_MOST_ARRANGEMENTS = 20_000


def order_test(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> ExactTest:
    """The permutation test of Kendall's concordances Σ sign(x_i − x_j) sign(y_i − y_j), summed over groups (Kendall
    1938).

    A group is x and y, both `[n, k]`: k values, which may be in any order if there is none, n times in the same order.
    Seeds that share what decides their order share one such group; other groups are permuted by themselves.
    """
    total, observed, floor = np.ones(1), 0, 1.0
    for x, y in groups:
        first, second = (np.sign(side[:, :, None] - side[:, None, :]).astype(np.int64) for side in (x, y))
        most = int(np.abs(first).sum()) // 2
        values = _concordances(first, second)
        observed += int((first * second).sum()) // 2 + most
        # From −most to most, in one array with the sums of the groups before.
        ordered = _concordances(first, first)  # as if y had the order of x, whatever its ties
        floor *= float(np.mean(ordered == ordered.max()))
        total = np.convolve(total, np.bincount(values + most, minlength=2 * most + 1) / len(values))
    return ExactTest(min(float(total[observed:].sum()), 1.0), min(float(total[: observed + 1].sum()), 1.0), floor)


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


def sign_flip_test(differences: Sequence[float] | np.ndarray) -> ExactTest:
    """The exact test of whether differences `[n]` are above 0 on average, by turning the signs of any of them."""
    values = np.asarray(differences, float)
    sums = turned_signs(len(values)) @ values
    near = 1e-9 * np.abs(values).sum()  # sums that are equal but for their rounding
    larger, smaller = (float(np.mean(side)) for side in (sums >= sums[0] - near, sums <= sums[0] + near))
    return ExactTest(larger, smaller, 2.0 ** -len(values))


def turned_signs(count: int) -> np.ndarray:
    """[arrangements, count] Every choice of signs, or many of them; the first turns none."""
    if 2**count <= _MOST_ARRANGEMENTS:
        return np.array(list(itertools.product((1, -1), repeat=count)))
    drawn = np.random.default_rng(0).choice((1, -1), (_MOST_ARRANGEMENTS, count))
    return np.concatenate([np.ones((1, count)), drawn])


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


def estimate_of_ratio(ours: Sequence[float], mean: float, std: float, count: int) -> Estimate:
    """The log of a sample's mean over that of another, of which mean, std and count are known: Welch's test (1947).

    The standard errors of the logarithms are those of the means, relative to the means.
    """
    own, other = (np.std(ours, ddof=1) / np.mean(ours)) ** 2 / len(ours), (std / mean) ** 2 / count
    degrees = (own + other) ** 2 / (own**2 / (len(ours) - 1) + other**2 / (count - 1))
    logs = tuple((np.log(np.asarray(ours, float)) - math.log(mean)).tolist())
    return Estimate(math.log(np.mean(ours) / mean), math.sqrt(own + other), float(degrees), 0.0, logs, float(other))


def share_test(successes: int, trials: int, limit: float) -> ExactTest:
    """Is the share of successes above or below `limit`? Unequal trials make it conservative (Hoeffding 1956)."""
    law = stats.binom(trials, limit)
    ends = float(law.pmf(0)), float(law.pmf(trials))
    return ExactTest(float(law.sf(successes - 1)), float(law.cdf(successes)), min(ends))


def in_same_order(first: np.ndarray, second: np.ndarray, paired: bool) -> list[bool]:
    """Whether each pair of samples is ordered as the two means are.

    With `paired`, samples at the same index form a pair; otherwise all pairs of a sample of `first` with one of
    `second` do.
    """
    order = np.sign(second.mean() - first.mean())
    pairs = zip(first, second, strict=True) if paired else itertools.product(first, second)
    return [bool(np.sign(b - a) == order) for a, b in pairs]
