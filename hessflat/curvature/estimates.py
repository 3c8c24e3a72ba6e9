"""Records of measurements: a value, its error, and its cost.

`Estimate` is for means over random probes (with a standard error), `RitzValue` for eigenvalues (with a bound). Both end
with the three fields of `ProductCost`, as do all records of measurements.
"""

import time
from typing import NamedTuple

import numpy as np

from hessflat.curvature import numerics


class ProductCost(NamedTuple):
    """The cost of a measurement."""

    num_products: int  # products with the operator
    seconds: float  # wall time, compilation included
    precision: str  # of matrix products, as `numerics.precision_name` gives it


class Estimate(NamedTuple):
    """A value and its standard error over probes; the standard error is nan for a single probe."""

    value: float
    standard_error: float
    num_products: int
    seconds: float
    precision: str


class RitzValue(NamedTuple):
    """An eigenvalue estimate: some eigenvalue of the operator lies within `residual` of `value`."""

    value: float
    residual: float
    num_products: int
    seconds: float
    precision: str


def cost_since(began: float, num_products: int) -> ProductCost:
    """The cost of a measurement that started at `began`, a value of `time.perf_counter`, at the current precision."""
    return ProductCost(num_products, time.perf_counter() - began, numerics.precision_name())


def mean(samples: np.ndarray, cost: ProductCost) -> Estimate:
    """The mean of independent samples [k] and its standard error s / √k."""
    samples = np.asarray(samples, np.float64)
    return Estimate(float(samples.mean()), float(standard_error(samples)), *cost)


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
