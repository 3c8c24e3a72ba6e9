"""Ritz values, weights and residuals of a tridiagonal matrix, in float64 on the host."""

from typing import NamedTuple

import numpy as np


class Ritz(NamedTuple):
    """The eigen-decomposition of the leading valid block of T, in ascending order."""

    values: np.ndarray  # [v]
    weights: np.ndarray  # [v] squared first components: the mass of each value under the starting vector
    residuals: np.ndarray  # [v] |β_v s_vi|: some eigenvalue of the operator lies this close (Parlett 1980, ch. 4)
    vectors: np.ndarray  # [v, v] columns s_i; Qᵀ s_i is the Ritz vector


def ritz(alphas: np.ndarray, betas: np.ndarray, num_valid: int) -> Ritz:
    """Solve the first `num_valid` rows of T = tridiag(betas, alphas, betas), both [m]."""
    diagonal = np.asarray(alphas[:num_valid], np.float64)
    beside = np.asarray(betas[:num_valid], np.float64)
    matrix = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    values, vectors = np.linalg.eigh(matrix)
    return Ritz(values, vectors[0] ** 2, np.abs(beside[-1] * vectors[-1]), vectors)
