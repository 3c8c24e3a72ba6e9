"""The sample bounds of *On progressive sharpening*, theorems 4.4 to 4.6, and statistics of what runs measured of them.

Let g be a Lipschitz function of a point uniform on the unit cube of dimension n. A ball of radius t ≤ 1 around any
point of the cube has at least the share 2⁻ⁿ of its volume within the cube; a corner attains it. So g is within ε of its
supremum with probability at least h(ε / ‖g‖_Lip), h(t) = 2⁻ⁿ C tⁿ, with C the volume of the unit ball. (The proof of
theorem 4.4 once writes 2⁻ⁿ Rⁿ, without C.) The normal distribution function maps a normal variable to a uniform one and
has slopes up to 1/√(2π). So, by concentration of Gaussian measure, the mean of N independent values is within ε of its
expectation except with probability 2 exp(−N π ε² / ‖g‖²_Lip).

Functions of a `Run` read the scalars `lipschitz.<name>` and the arrays of `hessflat.measures.lipschitz`. They raise an
InputError where the run did not measure these.
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
    """h(t) = 2⁻ⁿ C min(t, 1)ⁿ of theorem 4.4 for the dimension n."""
    volume = math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1)
    return 2.0**-dimension * volume * np.minimum(t, 1.0) ** dimension


def miss_bound(epsilon: Numbers, lipschitz: float, dimension: int, size: Numbers) -> np.ndarray:
    """Theorem 4.5: an upper bound on the probability that the maximum of `size` values is below the supremum − ε."""
    return (1 - within_share(np.asarray(epsilon) / lipschitz, dimension)) ** size


def mean_deviation_bound(size: Numbers, lipschitz: Numbers, failure: Numbers) -> np.ndarray:
    """The ε within which a mean of `size` values is of its expectation, except with the probability `failure`."""
    return np.asarray(lipschitz) * np.sqrt(np.log(2 / np.asarray(failure)) / (np.pi * np.asarray(size)))


def cost_deviation_bound(
    size: int, largest: float, jacobian: float, generator: float, pair: float, dimension: int, failure: float = FAILURE
) -> float:
    """Theorem 4.6, eq. 10: the deviation ε of the mean cost that is exceeded with probability at most `failure`.

    The failure probability is that of theorem 4.5 for an offset δ plus that of concentration; the result is the minimum
    over δ, and infinite where theorem 4.5 alone exceeds `failure` for every δ. The cost is a distance, which is
    √2-Lipschitz, and the identity map of the targets has norm 1. So C' is π / (√2 `pair`)².

    Args:
        size: N, the number of examples.
        largest: the largest Jacobian norm of the sample.
        jacobian: the Lipschitz constant of the Jacobian.
        generator: the Lipschitz constant of the map from the cube to inputs.
        pair: the Lipschitz constant of the map from the cube to inputs and targets.
        dimension: n, the dimension of the cube.
        failure: the probability of a larger deviation.
    """
    offsets = np.geomspace(1e-3, 1e3, 400) * largest
    left = failure - miss_bound(offsets, jacobian * generator, dimension, size)
    possible = left > 0
    if not possible.any():
        return math.inf
    constants = math.sqrt(2) * pair * np.maximum(largest + offsets[possible], 1.0)
    return float(mean_deviation_bound(size, constants, left[possible]).min())


def scalar(run: Run, name: str) -> float:
    """The scalar `lipschitz.<name>` of a run: a supremum, a Lipschitz constant, or a mean cost."""
    return run.final(f"lipschitz.{name}")


def sample_arrays(run: Run) -> dict[str, np.ndarray]:
    """The arrays of samples of N examples: `size` `[N]`, `misses` `[ε]`, `missed` `[N, ε]`, `gap` `[N]` and others."""
    return run.spectrum("lipschitz")


def dimension(run: Run) -> int:
    """n, the dimension of the cube from which inputs are generated."""
    return int(run.setting("data.generator.latent"))


def theorem_slope(run: Run) -> float:
    """‖Jf‖_Lip ‖F‖_Lip: theorem 4.4's bound on the Lipschitz constant of the Jacobian norm on the cube."""
    return scalar(run, "jacobian") * scalar(run, "generator")


def miss_bounds(run: Run, slope: float, sizes: np.ndarray) -> np.ndarray:
    """[N, ε] Theorem 4.5's bound on the probability of missing the supremum, for the Lipschitz constant `slope` on the
    cube.
    """
    epsilon = sample_arrays(run)["misses"] * scalar(run, "norm")
    return miss_bound(epsilon[None], slope, dimension(run), sizes[:, None])


def excess_over_miss_bound(run: Run) -> float:
    """The largest excess of the measured probability of a miss over its bound, in standard errors, over all N and ε."""
    arrays, slope = sample_arrays(run), scalar(run, "norm_slope")
    limit = miss_bounds(run, slope, arrays["size"])
    error = np.sqrt(np.maximum(limit * (1 - limit), 1e-12) / arrays["samples"][:, None])
    one = 1 - within_share(arrays["misses"] * scalar(run, "norm") / slope, dimension(run))
    error_of_one = np.sqrt(np.maximum(one * (1 - one), 1e-12) / arrays["draws"])
    return float(max(((arrays["missed"] - limit) / error).max(), ((arrays["miss"] - one) / error_of_one).max()))


def miss_rate_ratio(run: Run) -> float:
    """The fitted exponential rate in N of the share of samples that miss the supremum, over −log P[one example misses
    it].

    The result is the mean over ε. The two rates come from different examples. NaN where no share can be fitted.
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
    """The exponent of N in the mean of 1 − max ν / sup ν, fitted to the sizes of at least `FIRST_SIZE`."""
    arrays = sample_arrays(run)
    fitted = (arrays["size"] >= FIRST_SIZE) & (arrays["gap"] > 0)
    return power_law_exponent(arrays["size"][fitted], arrays["gap"][fitted])


def gap_at(run: Run, size: int = PAPER_SAMPLE) -> float:
    """The mean of 1 − max ν / sup ν at a sample size."""
    arrays = sample_arrays(run)
    return float(arrays["gap"][arrays["size"] == size][0])


def cost_deviation_bounds(run: Run, sizes: np.ndarray) -> np.ndarray:
    """[N] The bound of eq. 10 on the deviation of the mean cost, at probability 95 %, for the mean of the largest
    norms.
    """
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
    """The largest possible deviation of the mean cost from its expectation: every example costs the minimum or the
    maximum.
    """
    cost = scalar(run, "cost")
    return max(scalar(run, "cost_largest") - cost, cost - scalar(run, "cost_smallest"))


def informative_from(run: Run) -> float:
    """The smallest N, to a few per cent, for which the bound of eq. 10 is below the largest possible deviation."""
    sizes = np.unique(np.geomspace(10, 1e10, 600).astype(np.int64))
    below = cost_deviation_bounds(run, sizes) < largest_deviation(run)
    return float(sizes[below][0]) if below.any() else float("inf")


def looseness(run: Run) -> np.ndarray:
    """[N] The bound of eq. 10 over the measured 95 % quantile of deviations."""
    arrays = sample_arrays(run)
    return cost_deviation_bounds(run, arrays["size"]) / arrays["deviation"][:, -1]
