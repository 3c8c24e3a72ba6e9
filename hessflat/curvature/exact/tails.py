"""The tail of a spectrum: a power law fitted to the largest eigenvalues, and the gap that sets outliers apart."""

import math
from typing import Any, NamedTuple

import numpy as np

from hessflat.curvature import numerics
from hessflat.curvature.records import plus_minus, record
from hessflat.utils.errors import InputError, shown

# Values that a fit takes at least; a smaller tail fits anything.
_LEAST = 10
# Starts of the tail that are tried, at most: of more values every so many.
_MOST_STARTS = 100


@record(
    lambda self: f"a power law of the {self.num_tail} largest of {self.num_values} positive eigenvalues",
    {
        "α": "exponent ± standard_error",
        "from λ": "minimum",
        "KS distance": "distance",
        "p": lambda self: None if math.isnan(self.p_value) else plus_minus(self.p_value),
    },
)
class PowerLaw(NamedTuple):
    """A density proportional to λ^−α above a `minimum`, fitted to the eigenvalues there."""

    exponent: float  # α
    standard_error: float  # over resamples of the eigenvalues, each with a minimum of its own
    minimum: float  # the smallest eigenvalue of the tail
    distance: float  # Kolmogorov-Smirnov, between the tail and the law
    p_value: float  # the share of samples of the law that lie farther from their own fit; nan where not asked for
    num_tail: int  # eigenvalues of the tail
    num_values: int  # positive eigenvalues that were given

    @property
    def rank_exponent(self) -> float:
        """S = 1 / (α − 1), by which the eigenvalue of rank r falls as r^−s."""
        return 1 / (self.exponent - 1)


@record("outliers of a spectrum", {"number": "number", "ratio of the gap": "ratio", "smallest": "smallest"})
class Outliers(NamedTuple):
    """The largest eigenvalues, above the largest ratio of neighbours."""

    number: int  # of outliers
    ratio: float  # of the smallest outlier to the next eigenvalue; near 1 there is no gap
    smallest: float  # of the outliers


def power_law(values: Any, minimum: float | None = None, num_samples: int = 100, seed: int = 0) -> PowerLaw:
    """The maximum-likelihood power law of the largest eigenvalues (Clauset, Shalizi and Newman 2009, eq. 3.1).

    The tail begins where the Kolmogorov-Smirnov distance between it and its law is smallest (their section 3.3). The
    p-value is that of their section 4.1: samples of the law above the minimum, and of the eigenvalues below it, are
    fitted likewise; below 0.1 the law is ruled out. Both errors take eigenvalues for independent draws, while those of
    one matrix repel each other: they err on the large side for neighbours, and say nothing about other networks.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        values: [n] eigenvalues in any order, or a record with `values` such as `ExactSpectrum`; negative ones and zeros
            are left out.
        minimum: the smallest eigenvalue of the tail; None chooses it. If only the k largest eigenvalues are known, the
            tail lies among them.
        num_samples: resamples for the standard error, and samples for the p-value; 0 gives nan for both. With a
            `minimum` the standard error is (α − 1) / √n, without resamples.
        seed: of the samples.

    Raises:
        InputError: fewer than 10 positive eigenvalues in the tail, or equal ones alone.

    >>> found = power_law(np.random.default_rng(0).pareto(1.5, 2000) + 1)
    >>> bool(abs(found.exponent - 2.5) < 2 * found.standard_error), found.p_value > 0.1
    (True, True)
    """
    positive = _positive(values)
    if minimum is not None:
        minimum = numerics.require_number("minimum", minimum, above=0)
    samples = numerics.require_count("num_samples", num_samples, least=0)
    exponent, start, distance = _fit(positive, minimum)
    tail = positive[start:]
    error = math.nan if minimum is None else (exponent - 1) / math.sqrt(tail.size)  # their eq. 3.2
    share = math.nan
    if samples:
        generator = np.random.default_rng(numerics.require_count("seed", seed, least=0))
        if minimum is None:
            again = [_fit(np.sort(generator.choice(positive, positive.size)), None)[0] for _ in range(samples)]
            error = float(np.std(again, ddof=1))
        drawn = [_fit(_sample(generator, positive, start, exponent, minimum), minimum)[2] for _ in range(samples)]
        share = float(np.mean(np.array(drawn) >= distance))
    return PowerLaw(exponent, error, float(tail[0]), distance, share, tail.size, positive.size)


def outliers(values: Any) -> Outliers:
    """The eigenvalues above the largest ratio of neighbours among the positive ones (Sagun et al. 2017, appendix A).

    Some gap is always the largest: the ratio says whether it sets anything apart.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        values: as in `power_law`; of a whole spectrum give the upper part, as ratios near zero mean nothing.

    Raises:
        InputError: fewer than two positive eigenvalues.
    """
    ascending = _positive(values, least=2)
    ratios = ascending[1:] / ascending[:-1]
    place = int(ratios.argmax())
    return Outliers(ascending.size - 1 - place, float(ratios[place]), float(ascending[place + 1]))


def _positive(values: Any, least: int = _LEAST) -> np.ndarray:
    values = getattr(values, "values", values)
    numerics.require_values(values)
    try:
        found = np.sort(np.asarray(values, np.float64).ravel())
    except (TypeError, ValueError) as error:
        raise InputError(f"eigenvalues must be real numbers, got {shown(values)}") from error
    if not np.isfinite(found).all():
        raise InputError("eigenvalues must be finite, got some that are not")
    found = found[found > 0]
    if found.size < least or found[0] == found[-1]:
        raise InputError(
            f"a tail needs {least} different positive eigenvalues at least, got {np.unique(found).size}; measure more"
        )
    return found


def _fit(ascending: np.ndarray, minimum: float | None) -> tuple[float, int, float]:
    """The exponent, the place where the tail starts, and its distance from the law."""
    size = ascending.size
    if minimum is not None:
        starts = np.array([np.searchsorted(ascending, minimum)])
        if size - starts[0] < _LEAST or ascending[starts[0]] == ascending[-1]:
            raise InputError(f"a tail needs {_LEAST} eigenvalues at least, got {size - starts[0]} above {minimum:g}")
    else:
        different = np.flatnonzero(np.diff(ascending, prepend=-np.inf) > 0)
        starts = different[(different <= size - _LEAST) & (ascending[different] < ascending[-1])]
        starts = starts[:: -(-starts.size // _MOST_STARTS)] if starts.size else np.array([0])
    logs = np.log(ascending)
    # Σ ln x over the tail that starts at each place.
    sums = np.cumsum(logs[::-1])[::-1]
    best = (math.nan, 0, math.inf)
    for start in starts:
        count = size - start
        exponent = 1 + count / (sums[start] - count * logs[start])
        below = 1 - np.exp((1 - exponent) * (logs[start:] - logs[start]))
        steps = np.arange(count + 1) / count
        distance = float(np.maximum(np.abs(below - steps[1:]), np.abs(below - steps[:-1])).max())
        if distance < best[2]:
            best = (float(exponent), int(start), distance)
    return best


def _sample(
    generator: np.random.Generator, ascending: np.ndarray, start: int, exponent: float, minimum: float | None
) -> np.ndarray:
    """As many values, each above the start of the tail by the law, or one of those below it."""
    size = ascending.size
    above = size - start if minimum is not None else int(generator.binomial(size, 1 - start / size))
    law = ascending[start] * (1 - generator.random(above)) ** (-1 / (exponent - 1))
    below = generator.choice(ascending[:start], size - above) if start else ascending[:0]
    return np.sort(np.concatenate([below, law]))
