"""All eigenvalues of an operator, from its dense matrix or from the smaller Gram matrix of a Gauss-Newton matrix."""

import time
from typing import NamedTuple

import jax
import numpy as np
import scipy.linalg

from hessflat.curvature import numerics
from hessflat.curvature.exact import gram
from hessflat.curvature.operators.operator import Operator, require_finite, require_operator
from hessflat.curvature.records import plus_minus, record
from hessflat.utils import hardware, processes
from hessflat.utils.errors import InputError

# A float64 matrix of this size takes 3.2 GB, and its eigenvalues some minutes.
_LARGEST = 20_000


@record(
    lambda self: f"all {self.size:,} eigenvalues, {self.method}, of rank {self.rank:,}",
    {
        "λ_max": lambda self: plus_minus(self.values[-1], self.noise_floor),
        "λ_min": lambda self: plus_minus(self.values[0], self.noise_floor),
        "trace": "trace",
    },
)
class ExactSpectrum(NamedTuple):
    """All eigenvalues of an operator, to the precision of its products."""

    values: np.ndarray  # [P] float64, ascending
    method: str  # "dense" or "gram"
    # ε |λ|_max, by type and precision of the products: smaller eigenvalues cannot be distinguished from zero
    noise_floor: float
    num_products: int  # P, or the N C rows of the Jacobian (two products to compare are not counted)
    seconds: float
    precision: str

    @property
    def size(self) -> int:
        """P."""
        return len(self.values)

    @property
    def trace(self) -> float:
        """Σ λ."""
        return float(self.values.sum())

    @property
    def mean_eigenvalue(self) -> float:
        """Σ λ / P."""
        return float(self.values.mean())

    @property
    def frobenius(self) -> float:
        """(Σ λ²)^½."""
        return float(np.linalg.norm(self.values))

    @property
    def second_moment(self) -> float:
        """Σ λ² / P."""
        return float(np.mean(self.values**2))

    @property
    def rank(self) -> int:
        """The number of eigenvalues above the noise floor in magnitude."""
        return int(np.count_nonzero(np.abs(self.values) > self.noise_floor))

    def zero_mass(self) -> float:
        """The share of eigenvalues within the noise floor."""
        return 1 - self.rank / self.size


def exact_spectrum(op: Operator, float64: bool = False) -> ExactSpectrum:
    """All P eigenvalues of `op`.

    Dense: the matrix is built from P products in the operator's precision and diagonalised in float64.

    Gram: a Gauss-Newton matrix Jᵀ D J (a Fisher matrix too) with fewer outputs N C than parameters has the non-zero
    eigenvalues of the N C × N C matrix Sᵀ (J Jᵀ) S, where D = S Sᵀ, and P − N C zeros. J is computed in the operator's
    precision; J Jᵀ is accumulated in float64 by parts, so that the whole of J is never stored. The rows of an example
    are computed from that example alone, and Jᵀ D J v from them, with a random v, is compared with the product of `op`.
    If they differ, examples affect one another, and the method is dense.

    Args:
        op: an operator with P up to 20,000 (dense), or with N C up to 20,000 and any P (Gram).
        float64: compute the products in float64 too. Data and parameters are cast, so `op` itself may be in float32.

    Raises:
        InputError: an operator that is too large for both (use `spectrum` or `eigenpairs`), a matrix that does not fit
            into memory, or products that are not finite.
    """
    require_operator(op)
    if numerics.require_flag("float64", float64):
        with jax.enable_x64(True):
            return exact_spectrum(op.astype(np.float64))
    began = time.perf_counter()
    op = op.as_it_is_now()
    outputs = gram.num_outputs(op)
    values = None
    if outputs is not None and outputs < op.size and outputs <= _LARGEST:
        with numerics.matmul_precision():
            values = _from_gram(op)
    if outputs is None or values is None:
        require_dense(op)
        return solve_dense(np.array(op.to_dense(), np.float64), op, began)
    floor = numerics.noise_floor(values, op.dtype, numerics.precision_name(op))
    return ExactSpectrum(values, "gram", floor, outputs, time.perf_counter() - began, numerics.precision_name(op))


def eigvalsh(op: Operator, float64: bool = False) -> np.ndarray:
    """All P eigenvalues, ascending, float64 [P]: `exact_spectrum(op, float64).values`.

    Args:
        op: an operator of size P.
        float64: whether the products are in double precision.

    Raises:
        InputError: as `exact_spectrum`.
    """
    return exact_spectrum(op, float64).values


def solve_dense(matrix: np.ndarray, op: Operator, began: float) -> ExactSpectrum:
    """The spectrum of a float64 matrix [P, P] whose columns are products of `op`; the matrix is overwritten."""
    values, precision = _solve(matrix), numerics.precision_name(op)
    floor = numerics.noise_floor(values, op.dtype, precision)
    return ExactSpectrum(values, "dense", floor, len(values), time.perf_counter() - began, precision)


def require_dense(op: Operator, copies: int = 1) -> None:
    """Refuse an operator whose matrix, `copies` of it in float64, is too large.

    Raises:
        InputError: above 20,000 parameters, or more bytes than are free.
    """
    if op.size > _LARGEST:
        raise InputError(
            f"all eigenvalues take an operator of size up to {_LARGEST}, got {op.size}; "
            "use spectrum or eigenpairs instead"
        )
    with processes.failing_together(processes.spans(op)):
        hardware.require_bytes(
            op.size**2 * (2 * op.dtype.itemsize + 8 * copies),
            f"the matrix of {op.size} parameters",
            "use spectrum or eigenpairs instead",
        )


def _from_gram(op: Operator) -> np.ndarray | None:
    found = gram.matrix(op.terms[0])
    if found is None:
        return None
    inner, signs = found
    if (signs < 0).any():
        # The non-zero eigenvalues of S Σ Sᵀ J Jᵀ, with the signs Σ between the halves.
        root = _square_root(inner)
        inner = (root * signs) @ root
    values = np.concatenate([_solve(inner), np.zeros(op.size - len(signs))])
    return np.sort(float(op.coefficients[0]) * values + float(op.shift))


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix; negative rounding is cut."""
    values, vectors = scipy.linalg.eigh(_checked(matrix), driver="evd", check_finite=False)
    result: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return result


def _solve(matrix: np.ndarray) -> np.ndarray:
    """The eigenvalues of a matrix that is symmetric up to rounding; it is overwritten."""
    # SciPy takes column-major arrays and reads one triangle; our upper triangle is the lower one of the transpose.
    result: np.ndarray = scipy.linalg.eigh(
        _checked(matrix).T, eigvals_only=True, driver="evr", overwrite_a=True, check_finite=False
    )
    return result


def _checked(matrix: np.ndarray) -> np.ndarray:
    # A sum is finite only if all terms are; terms below 1e292 cannot make it overflow.
    require_finite(matrix.sum())
    return matrix
