"""Moments of the spectrum from random probes, one product each."""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import estimates, numerics
from hessflat.curvature.estimates import Estimate, ProductCost
from hessflat.curvature.numerics import Probe
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import Operator, matvec, require_finite
from hessflat.curvature.operators.terms import loop_for
from hessflat.utils.convolution import Loop


class Moments(NamedTuple):
    """The first two moments of the spectrum of an operator of size P, each with its standard error over probes."""

    trace: Estimate  # Tr A
    mean_eigenvalue: Estimate  # Tr A / P
    frobenius: Estimate  # ‖A‖_F = (Σ λ²)^½
    second_moment: Estimate  # Σ λ² / P
    num_products: int
    seconds: float
    precision: str


def moments(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: Loop | None = None
) -> Moments:
    """Tr A as the mean of zᵀ A z over random sign vectors z (Hutchinson 1989), and ‖A‖²_F as the mean of ‖A z‖².

    Both come from the same products; the error of the root is by the delta method. The memory is that of two vectors
    [P].

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_probes: the number of products.
        probe: "rademacher" (random signs) or "gaussian" (uniform on the sphere).
        loop: "scan", "python" or None to choose.

    Raises:
        InputError: a count below 1, an unknown probe, or products that are not finite.
    """
    began = time.perf_counter()
    samples = quadratic_samples(op, key, num_probes, probe, loop)
    return moments_from_samples(samples, op.size, estimates.cost_since(began, num_probes))


def frobenius(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: Loop | None = None
) -> Estimate:
    """‖A‖_F with its standard error: `moments(...).frobenius`, with the same arguments and errors."""
    return moments(op, key, num_probes, probe, loop).frobenius


def moments_from_samples(samples: np.ndarray, size: int, cost: ProductCost) -> Moments:
    """The moments of an operator of that size from the values of `quadratic` for each of k probes, [k, 3]."""
    first, second, scale = np.asarray(samples, np.float64).T
    mean_eigenvalue, second_moment = estimates.mean(scale * first, cost), estimates.mean(scale**2 * second, cost)
    return Moments(
        estimates.scaled(mean_eigenvalue, size),
        mean_eigenvalue,
        estimates.square_root(estimates.scaled(second_moment, size)),
        second_moment,
        *cost,
    )


def quadratic_samples(op: Operator, key: Array, num_probes: int, probe: Probe, loop: Loop | None) -> np.ndarray:
    """[k, 3] The values of `quadratic` for probes of length 1, whose means over probes estimate means over eigenvalues.

    Raises:
        InputError: a count below 1, an unknown probe, or products that are not finite.
    """
    numerics.require_key(key)
    numerics.require_count("num_probes", num_probes)
    numerics.require_probe(probe)
    loop, op = loop_for(op, loop), linearize(op)
    sample = _sample_compiled if loop == "scan" else partial(_sample, loop=loop)
    with numerics.matmul_precision():
        vectors = (numerics.draw_probe(key, op.size, op.dtype, probe, k) for k in range(num_probes))
        samples = np.array([sample(op, vector) for vector in vectors], np.float64)
    require_finite(samples)
    return samples


def quadratic(vector: Array, product: Array) -> Array:
    """vᵀ B v, ‖B v‖² and s with A = s B, from v and A v.

    The scale s avoids underflow: curvature can be 1e-30, whose square is not representable in float32.
    """
    largest = jnp.abs(product).max()
    product = product / jnp.where(largest > 0, largest, 1)
    return jnp.stack([jnp.vdot(vector, product), jnp.vdot(product, product), largest])


def _sample(op: Operator, vector: Array, loop: Loop = "scan") -> Array:
    return quadratic(vector, matvec(op, vector, loop))


_sample_compiled = jax.jit(_sample)
