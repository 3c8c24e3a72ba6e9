"""Records of measurements with their errors and costs; moments of the spectrum from random probes, one product each.

`Estimate` is for means over random probes (with a standard error), `RitzValue` for eigenvalues (with a bound). Both end
with the three fields of `ProductCost`, as do all records of measurements.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.numerics import Probe
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import Operator, layout_of, matvec, require_finite, require_operator
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.records import record
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils.convolution import Loop

# Of the vectors that one program multiplies, one after the other, in all.
_NUMBERS_TOGETHER = 2**20


class ProductCost(NamedTuple):
    """The cost of a measurement."""

    num_products: int  # products with the operator
    seconds: float  # wall time, compilation included
    precision: str  # of matrix products, as `numerics.precision_name` gives it


@record("an estimate, ± its standard error over probes", {"value": "value ± standard_error"})
class Estimate(NamedTuple):
    """A value and its standard error over probes; the standard error is nan for a single probe."""

    value: float  # in the unit of what is estimated
    standard_error: float  # over probes, in the same unit; nan for a single one
    num_products: int
    seconds: float
    precision: str


@record("an eigenvalue, ± its residual", {"λ": "value ± residual"})
class RitzValue(NamedTuple):
    """An eigenvalue estimate: some eigenvalue of the operator lies within `residual` of `value`."""

    value: float  # in the unit of the loss over that of the parameters squared
    residual: float  # in the same unit, at least the rounding of the products
    num_products: int
    seconds: float
    precision: str


def cost_since(began: float, num_products: int, arrays: Any) -> ProductCost:
    """The cost of a measurement that started at `began`, a value of `time.perf_counter`, at the current precision.

    `arrays` are any that lie where it computed, such as an operator.
    """
    return ProductCost(num_products, time.perf_counter() - began, numerics.precision_name(arrays))


def mean(samples: np.ndarray, cost: ProductCost, rounding: float = 0.0) -> Estimate:
    """The mean of independent samples [k] and its standard error s / √k, which is at least their `rounding`."""
    samples = np.asarray(samples, np.float64)
    error = np.maximum(standard_error(samples), rounding)  # nan stays
    return Estimate(float(samples.mean()), float(error), *cost)


def standard_error(samples: np.ndarray) -> np.ndarray:
    """S / √k of the mean over the last axis, [..., k] -> [...]; nan where k is 1."""
    count = samples.shape[-1]
    if count == 1:
        return np.full(samples.shape[:-1], np.nan)
    result: np.ndarray = samples.std(axis=-1, ddof=1) / np.sqrt(count)
    return result


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """`factor` times an estimate."""
    return estimate._replace(value=factor * estimate.value, standard_error=abs(factor) * estimate.standard_error)


def square_root(estimate: Estimate) -> Estimate:
    """√ of an estimate, its error by the delta method: σ / (2 √value)."""
    value = np.sqrt(max(estimate.value, 0.0))
    error = estimate.standard_error / (2 * value) if value > 0 else estimate.standard_error
    return estimate._replace(value=float(value), standard_error=float(error))


def square_over(numerators: np.ndarray, denominators: np.ndarray, cost: ProductCost) -> Estimate:
    """(mean a)² / mean b of paired samples [k], with its error by the delta method; 0 where every b is 0."""
    a, b = float(numerators.mean()), float(denominators.mean())
    if b == 0:
        return Estimate(0.0, 0.0, *cost)
    influence = 2 * a / b * numerators - (a / b) ** 2 * denominators
    return Estimate(a**2 / b, float(standard_error(influence)), *cost)


@record(
    "moments of a spectrum, ± their standard errors over probes",
    {"trace": "trace", "mean eigenvalue": "mean_eigenvalue", "‖A‖_F": "frobenius", "Σλ²/P": "second_moment"},
)
class Moments(NamedTuple):
    """The first two moments of the spectrum of an operator of size P, each with its standard error over probes.

    No error is below the rounding of the products: ε (P)^½ ‖A‖_F of the trace, and ε ‖A‖_F.
    """

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
    [P], or of a million numbers.

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
    return moments_from_samples(samples, op.size, op.dtype, cost_since(began, num_probes, op))


def frobenius(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: Loop | None = None
) -> Estimate:
    """‖A‖_F with its standard error: `moments(...).frobenius`, the root of the mean of ‖A z‖² (Hutchinson 1989).

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_probes: the number of products.
        probe: "rademacher" (random signs) or "gaussian" (uniform on the sphere).
        loop: "scan", "python" or None to choose.

    Raises:
        InputError: as `moments`.
    """
    return moments(op, key, num_probes, probe, loop).frobenius


def moments_from_samples(samples: np.ndarray, size: int, dtype: Any, cost: ProductCost) -> Moments:
    """The moments of an operator of that size and type from the values of `quadratic` for each of k probes, [k, 3]."""
    first, second, scale = np.asarray(samples, np.float64).T
    epsilon, squares = numerics.epsilon(dtype, cost.precision), scale**2 * second
    second_moment = mean(squares, cost, 2 * epsilon * float(squares.mean()))
    # A product of length ‖A v‖ is rounded by ε of that, and v has the length 1.
    mean_eigenvalue = mean(scale * first, cost, epsilon * float(np.sqrt(squares.mean())))
    return Moments(
        scaled(mean_eigenvalue, size),
        mean_eigenvalue,
        square_root(scaled(second_moment, size)),
        second_moment,
        *cost,
    )


def quadratic_samples(op: Operator, key: Array, num_probes: int, probe: Probe, loop: Loop | None) -> np.ndarray:
    """[k, 3] The values of `quadratic` for probes of length 1, whose means over probes estimate means over eigenvalues.

    Raises:
        InputError: a count below 1, an unknown probe, or products that are not finite.
    """
    require_operator(op)
    numerics.require_key(key)
    num_probes = numerics.require_draws("num_probes", num_probes)
    numerics.require_probe(probe)
    loop, layout, op = loop_for(op, loop), layout_of(op), linearize(op)
    count = _together(num_probes, layout) if loop == "scan" else 1
    samples = np.zeros((num_probes, 3))
    with numerics.matmul_precision():
        for k in range(0, num_probes, count):
            if loop == "scan":
                rows = vectors.draw_rows(layout, key, probe, range(k, k + count))
                samples[k : k + count] = _samples_compiled(op, layout, rows)
            else:
                vector = vectors.draw(layout, key, probe, k)
                samples[k] = quadratic(vector, matvec(op, layout, vector, loop))
    require_finite(samples)
    return samples


def _together(num_probes: int, layout: Layout) -> int:
    """How many probes one program takes: a divisor of their number, with few numbers in all."""
    most = max(1, min(num_probes, _NUMBERS_TOGETHER // sum(layout.lengths)))
    return next(count for count in range(most, 0, -1) if num_probes % count == 0)


def quadratic(vector: Vector, product: Vector) -> Array:
    """vᵀ B v, ‖B v‖² and s with A = s B, from v and A v.

    The scale s avoids underflow: curvature can be 1e-30, whose square is not representable in float32.
    """
    largest = vectors.size_of_largest(product)
    product = jax.tree.map(lambda x: x / jnp.where(largest > 0, largest, 1), product)
    return jnp.stack([vectors.dot(vector, product), vectors.dot(product, product), largest])


@partial(jax.jit, static_argnums=1)
def _samples_compiled(op: Operator, layout: Layout, rows: Vector) -> Array:
    """[n, 3] `quadratic` of each row, one after the other in one program: launching each takes longer than a small
    product.
    """
    result: Array = jax.lax.map(lambda vector: quadratic(vector, matvec(op, layout, vector)), rows)
    return result
