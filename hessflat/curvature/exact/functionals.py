"""Functions of a set of eigenvalues, such as traces of matrix functions and effective ranks.

They take an array of eigenvalues, such as `eigvalsh` returns, and are exact for it. `Spectrum` has the same quantities,
by the same rules, as estimates with standard errors. Values that are none, not real or not finite are an `InputError`,
and those inside `jax.jit` too.
"""

from typing import Any

import numpy as np

from hessflat.curvature.numerics import noise_floor, require_values
from hessflat.utils.errors import InputError


def _eigenvalues(values: Any) -> np.ndarray:
    """`values` in double precision.

    Raises:
        InputError: none, not one axis, or not real finite numbers.
    """
    require_values(values)
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
        came = f"shape {array.shape}, type {array.dtype}"
        raise InputError(f"eigenvalues must be real numbers of shape (P,), as cv.eigvalsh returns, got {came}")
    lost = array.size - np.count_nonzero(np.isfinite(array))
    if lost:
        raise InputError(f"eigenvalues must be finite, got {lost} of {array.size} that are not")
    return array.astype(np.float64)


def zero_mass(values: np.ndarray, dtype: Any = np.float32, precision: str = "highest") -> float:
    """The share of eigenvalues within the noise floor, the mass at zero of Granziol (2020, section 3.2).

    Args:
        values: [P] eigenvalues.
        dtype: of the products that the eigenvalues are from.
        precision: of their matrix products.

    Raises:
        InputError: values that are none, not real or not finite.
    """
    values = _eigenvalues(values)
    return float(np.mean(np.abs(values) <= noise_floor(values, dtype, precision)))


def effective_rank(values: np.ndarray, dtype: Any = np.float32, precision: str = "highest") -> int:
    """P (1 − mass at zero): the number of eigenvalues above the noise floor in magnitude.

    Args:
        values: [P] eigenvalues.
        dtype: of the products that the eigenvalues are from.
        precision: of their matrix products.

    Raises:
        InputError: values that are none, not real or not finite.
    """
    values = _eigenvalues(values)
    return int(np.count_nonzero(np.abs(values) > noise_floor(values, dtype, precision)))


def participation_ratio(values: np.ndarray) -> float:
    """(Σ λ)² / Σ λ²: n for n equal non-zero eigenvalues, 0 if all are zero; intended for eigenvalues of one sign.

    Args:
        values: [P] eigenvalues.

    Raises:
        InputError: values that are none, not real or not finite.
    """
    values = _eigenvalues(values)
    square = float(np.sum(np.square(values)))
    return float(np.sum(values)) ** 2 / square if square > 0 else 0.0


def effective_dimension(values: np.ndarray, damping: float) -> float:
    """Σ λ / (λ + damping): the number of directions determined by the data (MacKay 1992; Maddox et al. 2020).

    Args:
        values: [P] eigenvalues.
        damping: the precision of the prior, in the unit of the eigenvalues.

    Raises:
        InputError: values that are none, not real or not finite; an eigenvalue plus damping that is not above 0.
    """
    values = _eigenvalues(values)
    require_positive("effective_dimension", values, damping)
    return float(np.sum(values / (values + damping)))


def log_determinant(values: np.ndarray, damping: float = 0.0) -> float:
    """Σ log(λ + damping), in nats.

    Args:
        values: [P] eigenvalues.
        damping: a number in the unit of the eigenvalues.

    Raises:
        InputError: values that are none, not real or not finite; an eigenvalue plus damping that is not above 0.
    """
    values = _eigenvalues(values)
    require_positive("log_determinant", values, damping)
    return float(np.sum(np.log(values + damping)))


def require_positive(what: str, values: np.ndarray, damping: float, floor: float = 0.0, error: float = 0.0) -> None:
    """Refuse a damping that leaves a value not above `floor`.

    Args:
        what: the name of the function, for the message.
        values: [n] eigenvalues.
        damping: a number in the unit of the eigenvalues.
        floor: the noise floor.
        error: how far an eigenvalue may lie below the smallest value.

    Raises:
        InputError: a damping that is no finite number, or too small.
    """
    number = isinstance(damping, (int, float, np.integer, np.floating)) and not isinstance(damping, bool)
    if not number or not np.isfinite(damping):
        raise InputError(f"damping must be one finite number, got {damping!r}")
    smallest = float(np.min(values))
    if smallest + damping > floor:
        return
    least = max(floor, error) - smallest
    enough = least + 0.1 * abs(least) if least else 1.0
    raise InputError(
        f"{what} needs eigenvalues + damping above {floor:.2g}{', the noise floor' if floor else ''}, "
        f"got the eigenvalue {smallest:.3g} with damping {damping:.3g}; a damping of {enough:.2g} would do"
    )
