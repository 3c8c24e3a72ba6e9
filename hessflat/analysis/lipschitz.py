"""What *On progressive sharpening*, theorems 4.4 to 4.6, promise of samples, with every constant known.

For a Lipschitz function g of a point uniform on the unit cube of dimension n. A ball of radius t ≤ 1 around any point
of the cube has, at a corner, the share 2⁻ⁿ of itself within, and no less elsewhere: so g is within ε of its supremum
with probability at least h(ε / ‖g‖_Lip), h(t) = 2⁻ⁿ C tⁿ, C the volume of the unit ball. (The proof of theorem 4.4 has
this as 2⁻ⁿ Rⁿ once, without C.) A uniform number is the normal distribution function of a normal one, and that function
has slopes up to 1/√(2π): so concentration of Gaussian measure gives means of N independent values within ε of their
expectation but for a probability 2 exp(−N π ε² / ‖g‖²_Lip).
"""

import math

import numpy as np

Numbers = float | np.ndarray


def within_share(t: Numbers, dimension: int) -> np.ndarray:
    """h(t) of theorem 4.4."""
    volume = math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1)
    return 2.0**-dimension * volume * np.minimum(t, 1.0) ** dimension


def miss_bound(epsilon: Numbers, lipschitz: float, dimension: int, size: Numbers) -> np.ndarray:
    """Theorem 4.5: the probability that the largest of `size` values is below the supremum less ε, at most."""
    return (1 - within_share(np.asarray(epsilon) / lipschitz, dimension)) ** size


def deviation_within(size: Numbers, lipschitz: Numbers, failure: Numbers) -> np.ndarray:
    """The ε that a mean of `size` values is within of its expectation but for the probability `failure`."""
    return np.asarray(lipschitz) * np.sqrt(np.log(2 / np.asarray(failure)) / (np.pi * np.asarray(size)))


def deviation_of_theorem(
    size: int, largest: float, jacobian: float, generator: float, pair: float, dimension: int, failure: float = 0.05
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
    return float(deviation_within(size, constants, left[possible]).min())
