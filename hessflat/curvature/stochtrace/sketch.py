"""An orthonormal basis of what an operator maps random vectors to, and products with it: the part shared by the trace
estimators that deflate the operator first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature.numerics import probes
from hessflat.curvature.operators.operator import Operator, matvec, matvec_compiled, require_finite
from hessflat.utils import loops

# Singular values of a sketch below this many roundings of the largest are rounding of the products.
_ROUNDINGS = 20


class TraceParts(NamedTuple):
    """A trace as a sum: its rounding is that of the parts."""

    parts: np.ndarray  # [n], float64
    standard_error: float
    num_products: int


class Sketch(NamedTuple):
    """A Ω = Q C for k random vectors Ω, uniform on the sphere of radius √P, with r ≤ k the numerical rank."""

    basis: Array  # [r, P] Qᵀ
    coefficients: np.ndarray  # [r, k] C, float64; its rows are orthogonal, the largest first
    key: Array  # from which `probe_vector` draws Ω again


def sketch(op: Operator, key: Array, count: int, loop: loops.Loop) -> Sketch:
    """`count` products. Where A has fewer eigenvalues off zero, as far as rounding lets see, r is below `count`.

    Ω is not kept; for a moment three arrays [count, P] are.

    Raises:
        InputError: products that are not finite.
    """
    rows = jnp.stack([product(op, probe_vector(op, key, number), loop) for number in range(count)])
    scale = float(jnp.abs(rows).max())
    require_finite(scale)
    if scale == 0:
        return Sketch(rows[:0], np.zeros((0, count)), key)
    basis, triangle = _qr(rows, scale)
    left, singular, right = np.linalg.svd(np.asarray(triangle, np.float64))
    rank = int((singular > _ROUNDINGS * float(jnp.finfo(op.dtype).eps) * singular[0]).sum())
    coefficients = scale * singular[:rank, None] * right[:rank]
    return Sketch(_rotate(basis, jnp.asarray(left[:, :rank], op.dtype)), coefficients, key)


def probe_vector(op: Operator, key: Array, number: int) -> Array:
    """ω [P] of length √P, so that E[ω ωᵀ] = I."""
    return probes.draw(key, op.size, op.dtype, "gaussian", number) * jnp.sqrt(jnp.asarray(op.size, op.dtype))


def product(op: Operator, vector: Array, loop: loops.Loop) -> Array:
    """A v [P], compiled by itself where the loop is, so that one program serves any number of vectors."""
    return matvec_compiled(op, vector) if loop == "scan" else matvec(op, vector, loop)


@jax.jit
def _qr(rows: Array, scale: Array) -> tuple[Array, Array]:
    return jnp.linalg.qr((rows / scale).T)


@jax.jit
def _rotate(basis: Array, rotation: Array) -> Array:
    return rotation.T @ basis.T
