"""Means over probes, with the standard error that belongs to them."""

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A value and its standard error over probes; the error is nan where one probe leaves it unknown."""

    value: float
    standard_error: float


def mean(samples: np.ndarray) -> Estimate:
    """The mean of independent samples [k] and its standard error s / √k."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.nan
    return Estimate(float(samples.mean()), float(error))


def square_root(estimate: Estimate) -> Estimate:
    """√ of an estimate, its error by the delta method: σ / (2 √value)."""
    value = np.sqrt(max(estimate.value, 0.0))
    error = estimate.standard_error / (2 * value) if value > 0 else estimate.standard_error
    return Estimate(float(value), float(error))
