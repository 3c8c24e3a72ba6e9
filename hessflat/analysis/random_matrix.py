"""Limit laws of sample covariance matrices: the Marčenko-Pastur bulk, its edges, and outliers.

For N examples x ∈ R^d with population covariance Σ, they describe the eigenvalues of (1/N) Σ x xᵀ as d, N → ∞ with d /
N = `ratio`. *Empirical Analysis of the Hessian*, appendix B, theorems 1 and 2.
"""

import numpy as np


def bulk_edges(ratio: float, variance: float = 1.0) -> tuple[float, float]:
    """The ends variance · (1 ∓ √ratio)² of the Marčenko-Pastur bulk, for Σ = variance · I."""
    return variance * (1 - ratio**0.5) ** 2, variance * (1 + ratio**0.5) ** 2


def bulk_density(x: np.ndarray, ratio: float, variance: float = 1.0) -> np.ndarray:
    """The Marčenko-Pastur density of the bulk at `x`, of its shape.

    It integrates to min(1, 1 / ratio); the remaining mass 1 − 1 / ratio is at zero.
    """
    low, high = bulk_edges(ratio, variance)
    x = np.asarray(x, float)
    inside = (x > low) & (x < high) & (x > 0)
    safe = np.where(inside, x, 1.0)
    return np.where(inside, np.sqrt(np.maximum((high - x) * (x - low), 0)) / (2 * np.pi * variance * ratio * safe), 0)


def cumulative_share(x: np.ndarray, ratio: float, variance: float = 1.0, points: int = 20_001) -> np.ndarray:
    """The Marčenko-Pastur distribution function at `x`, the atom at zero included; integrated on `points` points."""
    low, high = bulk_edges(ratio, variance)
    # Angles in place of values: the density is singular at the edges, and at zero where `ratio` is 1.
    angles = np.linspace(0, np.pi, points)
    grid = low + (high - low) * (1 - np.cos(angles)) / 2
    middle = (grid[1:] + grid[:-1]) / 2
    mass = np.concatenate([[0.0], np.cumsum(bulk_density(middle, ratio, variance) * np.diff(grid))])
    mass *= min(1.0, 1 / ratio) / mass[-1]
    return np.where(np.asarray(x) < 0, 0.0, max(0.0, 1 - 1 / ratio) + np.interp(x, grid, mass, left=0.0))


def detection_threshold(ratio: float) -> float:
    """1 + √ratio: the smallest eigenvalue of Σ, relative to the others, that causes an outlier (Baik, Ben Arous & Péché
    2005).
    """
    return 1 + ratio**0.5


def outlier_position(spike: np.ndarray, ratio: float) -> np.ndarray:
    """The sample eigenvalue for an eigenvalue `spike` of Σ, all others being 1: spike (1 + ratio / (spike − 1)).

    At or below the detection threshold it is the upper edge of the bulk.
    """
    spike = np.asarray(spike, float)
    shows = spike > detection_threshold(ratio)
    return np.where(shows, spike * (1 + ratio / np.where(shows, spike - 1, 1.0)), bulk_edges(ratio)[1])


def distance_to_bulk(eigenvalues: np.ndarray, ratio: float) -> float:
    """The Kolmogorov distance of ascending eigenvalues `[d]` from the Marčenko-Pastur law of variance 1, zeros
    excluded.
    """
    values = np.maximum(eigenvalues, 0.0)
    expected = cumulative_share(values, ratio)
    counted = np.arange(1, values.size + 1) / values.size
    return float(np.max(np.abs(counted - expected)[values > 1e-4]))
