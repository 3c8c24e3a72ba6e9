"""What *On progressive sharpening*, theorems 4.4 to 4.6, promise of samples, and what runs measured of them.

For a Lipschitz function g of a point uniform on the unit cube of dimension n. A ball of radius t ≤ 1 around any point
of the cube has, at a corner, the share 2⁻ⁿ of itself within, and no less elsewhere: so g is within ε of its supremum
with probability at least h(ε / ‖g‖_Lip), h(t) = 2⁻ⁿ C tⁿ, C the volume of the unit ball. (The proof of theorem 4.4 has
this as 2⁻ⁿ Rⁿ once, without C.) A uniform number is the normal distribution function of a normal one, and that function
has slopes up to 1/√(2π): so concentration of Gaussian measure gives means of N independent values within ε of their
expectation but for a probability 2 exp(−N π ε² / ‖g‖²_Lip).

The functions of a `Run` read the scalars `lipschitz.<name>` and the arrays of `hessflat.measures.lipschitz`.
"""

import math

import numpy as np

from hessflat.analysis.results import Run
from hessflat.analysis.statistics import decay_rate_of_shares, power_law_exponent

Numbers = float | np.ndarray

# Of the sample sizes the nearest to the paper's 1,000 to 2,500 examples.
PAPER_SAMPLE = 1_024
# Probability of failure at which deviations and their bounds are compared, and the quantile that is measured.
FAILURE = 0.05
# Gaps follow a power of N where several examples are near the largest.
FIRST_SIZE = 32
# Rates are fitted to shares of samples that rest on so many samples that missed, and that did not.
FEWEST_COUNTED = 20


def within_share(t: Numbers, dimension: int) -> np.ndarray:
    """h(t) of theorem 4.4."""
    volume = math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1)
    return 2.0**-dimension * volume * np.minimum(t, 1.0) ** dimension


def miss_bound(epsilon: Numbers, lipschitz: float, dimension: int, size: Numbers) -> np.ndarray:
    """Theorem 4.5: the probability that the largest of `size` values is below the supremum less ε, at most."""
    return (1 - within_share(np.asarray(epsilon) / lipschitz, dimension)) ** size


def mean_deviation_bound(size: Numbers, lipschitz: Numbers, failure: Numbers) -> np.ndarray:
    """The ε that a mean of `size` values is within of its expectation but for the probability `failure`."""
    return np.asarray(lipschitz) * np.sqrt(np.log(2 / np.asarray(failure)) / (np.pi * np.asarray(size)))


def cost_deviation_bound(
    size: int, largest: float, jacobian: float, generator: float, pair: float, dimension: int, failure: float = FAILURE
) -> float:
    """Theorem 4.6, eq. 10: the ε whose two terms together are `failure`, with the best δ; infinite where no δ will do.

    `largest` is the largest Jacobian norm of the sample, `jacobian` the Lipschitz constant of the Jacobian, `generator`
    and `pair` those of the map to inputs and of that to inputs and targets. The cost is a distance, which is √2
    Lipschitz; beside f stands the identity of targets, of norm 1. So C' is π / (√2 `pair`)².
    """
    offsets = np.geomspace(1e-3, 1e3, 400) * largest
    left = failure - miss_bound(offsets, jacobian * generator, dimension, size)
    possible = left > 0
    if not possible.any():
        return math.inf
    constants = math.sqrt(2) * pair * np.maximum(largest + offsets[possible], 1.0)
    return float(mean_deviation_bound(size, constants, left[possible]).min())


def scalar(run: Run, name: str) -> float:
    """One of the constants of a run: a supremum, a Lipschitz constant, a mean cost."""
    return run.final(f"lipschitz.{name}")


def sample_arrays(run: Run) -> dict[str, np.ndarray]:
    """What samples of growing size gave: `size` `[N]`, `misses` `[ε]`, `missed` `[N, ε]`, `gap` `[N]` and others."""
    return run.spectrum("lipschitz")


def dimension(run: Run) -> int:
    """n, of the cube that inputs are pushed forward from."""
    return int(run.setting("data.generator.latent"))


def theorem_slope(run: Run) -> float:
    """‖Jf‖_Lip ‖F‖_Lip, by which theorem 4.4 bounds the Lipschitz constant of the Jacobian norm on the cube."""
    return scalar(run, "jacobian") * scalar(run, "generator")


def miss_bounds(run: Run, slope: float, sizes: np.ndarray) -> np.ndarray:
    """[N, ε] Theorem 4.5's bound on the probability of missing the supremum, for a Lipschitz constant on the cube."""
    epsilon = sample_arrays(run)["misses"] * scalar(run, "norm")
    return miss_bound(epsilon[None], slope, dimension(run), sizes[:, None])


def excess_over_miss_bound(run: Run) -> float:
    """By how many standard errors the probability of missing is above its bound, at most, over all N and ε."""
    arrays, slope = sample_arrays(run), scalar(run, "norm_slope")
    limit = miss_bounds(run, slope, arrays["size"])
    error = np.sqrt(np.maximum(limit * (1 - limit), 1e-12) / arrays["samples"][:, None])
    one = 1 - within_share(arrays["misses"] * scalar(run, "norm") / slope, dimension(run))
    error_of_one = np.sqrt(np.maximum(one * (1 - one), 1e-12) / arrays["draws"])
    return float(max(((arrays["missed"] - limit) / error).max(), ((arrays["miss"] - one) / error_of_one).max()))


def miss_rate_ratio(run: Run) -> float:
    """The fitted rate at which samples cease to miss the supremum, over −log P[one example misses it]; mean over ε.

    The two come from different examples. NaN where no share can be fitted.
    """
    arrays, ratios = sample_arrays(run), []
    for index, miss in enumerate(arrays["miss"]):
        share, samples = arrays["missed"][:, index], arrays["samples"]
        used = (share * samples >= FEWEST_COUNTED) & ((1 - share) * samples >= FEWEST_COUNTED)
        if used.any() and miss < 1:
            rate = decay_rate_of_shares(arrays["size"][used], share[used], samples[used])
            ratios.append(rate / -np.log(miss))
    return float(np.mean(ratios)) if ratios else float("nan")


def gap_exponent(run: Run) -> float:
    """The exponent of N in the mean of 1 − max ν / sup ν, fitted where N is `FIRST_SIZE` or more."""
    arrays = sample_arrays(run)
    fitted = (arrays["size"] >= FIRST_SIZE) & (arrays["gap"] > 0)
    return power_law_exponent(arrays["size"][fitted], arrays["gap"][fitted])


def gap_at(run: Run, size: int = PAPER_SAMPLE) -> float:
    """Mean of 1 − max ν / sup ν at a sample size."""
    arrays = sample_arrays(run)
    return float(arrays["gap"][arrays["size"] == size][0])


def cost_deviation_bounds(run: Run, sizes: np.ndarray) -> np.ndarray:
    """[N] The deviation that eq. 10 allows with probability 95 %, for a sample with the mean of largest norms."""
    arrays = sample_arrays(run)
    largest = np.interp(np.log(sizes), np.log(arrays["size"]), scalar(run, "norm") * (1 - arrays["gap"]))
    jacobian, generator, pair = (scalar(run, name) for name in ("jacobian", "generator", "pair"))
    return np.array(
        [
            cost_deviation_bound(int(size), float(one), jacobian, generator, pair, dimension(run), FAILURE)
            for size, one in zip(sizes, largest, strict=True)
        ]
    )


def largest_deviation(run: Run) -> float:
    """The largest deviation of a mean cost from its expectation that there can be."""
    cost = scalar(run, "cost")
    return max(scalar(run, "cost_largest") - cost, cost - scalar(run, "cost_smallest"))


def informative_from(run: Run) -> float:
    """The smallest N, to a few per cent, from which eq. 10 allows less than the largest deviation that there can be."""
    sizes = np.unique(np.geomspace(10, 1e10, 600).astype(np.int64))
    below = cost_deviation_bounds(run, sizes) < largest_deviation(run)
    return float(sizes[below][0]) if below.any() else float("inf")


def looseness(run: Run) -> np.ndarray:
    """[N] The bound of eq. 10 over the 95 % quantile of deviations seen."""
    arrays = sample_arrays(run)
    return cost_deviation_bounds(run, arrays["size"]) / arrays["deviation"][:, -1]
