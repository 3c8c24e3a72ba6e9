"""Lanczos as anybody would write it by hand, for NumPy and PyTorch alike."""

from collections.abc import Callable
from typing import Any

import numpy as np


def lanczos(
    product: Callable[[Any], Any], basis: Any, start: Any, rtol: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Full re-orthogonalisation, twice over the filled rows.

    Args:
        product: the matrix times a vector [P].
        basis: room for one vector per step [m, P].
        start: the first vector [P].
        rtol: stop when the residual of the largest Ritz value is within `rtol` of it; None does all steps.

    Returns:
        α and β of the steps done, the last β being what is left over.
    """
    alphas: list[Any] = []
    betas: list[Any] = []
    vector = start / (start @ start) ** 0.5
    for i in range(len(basis)):
        basis[i] = vector
        w = product(vector)
        alphas.append(vector @ w)
        filled = basis[: i + 1]
        for _ in range(2):
            w = w - (filled @ w) @ filled
        betas.append((w @ w) ** 0.5)
        vector = w / betas[-1]
        if rtol is not None and _is_converged(alphas, betas, rtol):
            break
    return _numbers(alphas), _numbers(betas)


def ritz_values(alphas: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Eigenvalues of the tridiagonal matrix, ascending."""
    return np.linalg.eigvalsh(_tridiagonal(alphas, betas))


def _is_converged(alphas: list[Any], betas: list[Any], rtol: float) -> bool:
    a, b = _numbers(alphas), _numbers(betas)
    values, vectors = np.linalg.eigh(_tridiagonal(a, b))
    return bool(abs(b[-1] * vectors[-1, -1]) <= rtol * values[-1])


def _tridiagonal(alphas: np.ndarray, betas: np.ndarray) -> np.ndarray:
    return np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)


def _numbers(values: list[Any]) -> np.ndarray:
    return np.array([float(value) for value in values])
