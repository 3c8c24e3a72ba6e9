"""The trace of an operator from a given number of products, by one of three estimators."""

import time
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.numerics import Probe
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import (
    Operator,
    layout_of,
    matvec,
    matvec_compiled,
    require_finite,
    require_operator,
)
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.stochtrace import estimates
from hessflat.curvature.stochtrace.estimates import Estimate, quadratic, quadratic_samples
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils import hardware
from hessflat.utils.convolution import Loop
from hessflat.utils.errors import InputError

TraceMethod = Literal["hutchinson", "hutch++", "xtrace"]

# The minimum number of products of each method.
_LEAST: dict[str, int] = {"hutchinson": 1, "hutch++": 3, "xtrace": 2}


# Singular values of a sketch below this multiple of the largest's rounding are rounding of the products.
_ROUNDINGS = 20


def trace(
    op: Operator,
    key: Array,
    num_products: int = 30,
    method: TraceMethod = "hutchinson",
    probe: Probe | None = None,
    loop: Loop | None = None,
) -> Estimate:
    """Tr A with a standard error, from at most n products. All three methods are unbiased.

    - "hutchinson": the mean of zᵀAz over random signs z (Hutchinson 1989). Error ∝ ‖A‖_F / √n, memory of two vectors.
    - "hutch++" (Meyer, Musco, Musco & Woodruff 2021): the trace on a random subspace is computed exactly. Exact, up to
      rounding, for A of rank below n / 3, and better wherever the spectrum decays; memory of n vectors.
    - "xtrace" (Epperly, Tropp & Webber 2024): the same, with every vector used twice. Exact for A of rank below n / 2,
      with the smallest error for decaying spectra; memory of 3/2 n vectors.

    Vectors are [P]. A standard error is never below the rounding of the products. With n at P or above, the diagonal is
    summed instead: P products, deterministic, exact up to rounding.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_products: n; "hutch++" and "xtrace" take fewer where the rank is lower.
        method: "hutchinson", "hutch++" or "xtrace".
        probe: for "hutchinson": "rademacher" (the default) or "gaussian". The others require rotational symmetry and
            accept "gaussian" only.
        loop: "scan", "python" or None to choose.

    Raises:
        InputError: an unknown method or probe, fewer products than the method needs, or products that are not finite.
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_key(key)
    num_products = _budget(num_products, method)
    _require_probe(method, probe)
    loop, op = loop_for(op, loop), linearize(op)
    with numerics.matmul_precision():
        if num_products >= op.size:
            result = _diagonal(op)
        elif method == "hutchinson":
            result = _hutchinson(op, key, num_products, probe or "rademacher", loop)
        else:
            result = (hutchpp if method == "hutch++" else xtrace)(op, key, num_products, loop)
    require_finite(result.parts)
    rounding = float(jnp.finfo(op.dtype).eps) * np.abs(result.parts).sum()
    error = float(np.maximum(result.standard_error, rounding))  # nan stays
    return Estimate(float(result.parts.sum()), error, *estimates.cost_since(began, result.num_products, op))


class TraceParts(NamedTuple):
    """A trace as a sum; its rounding is that of the parts."""

    parts: np.ndarray  # [n], float64
    standard_error: float
    num_products: int


def _hutchinson(op: Operator, key: Array, num_products: int, probe: Probe, loop: Loop) -> TraceParts:
    first, _, scale = quadratic_samples(op, key, num_products, probe, loop).T
    samples = op.size * scale * first
    return TraceParts(samples / num_products, float(estimates.standard_error(samples)), num_products)


def _diagonal(op: Operator) -> TraceParts:
    return TraceParts(np.diagonal(np.asarray(op.to_dense(), np.float64)), 0.0, op.size)


def _budget(num_products: int, method: str) -> int:
    numerics.require_option("method", method, _LEAST)
    num_products = numerics.require_count("num_products", num_products)
    if num_products < _LEAST[method]:
        raise InputError(f"{method} needs num_products of at least {_LEAST[method]}, got {num_products}")
    return num_products


def _require_probe(method: str, probe: str | None) -> None:
    if probe is not None:
        numerics.require_probe(probe)
    if method != "hutchinson" and probe == "rademacher":
        raise InputError(f"{method} takes probe='gaussian' alone, got 'rademacher'; leave probe out")


class Sketch(NamedTuple):
    """A Ω = Q C for k random vectors Ω of length √P, by default uniform, with r ≤ k the numerical rank."""

    basis: Vector  # [r, P] Qᵀ
    coefficients: np.ndarray  # [r, k] C, float64; its rows are orthogonal, the largest first
    key: Array  # from which `probe_vector` draws Ω again

    @property
    def rank(self) -> int:
        """The number r."""
        return len(self.coefficients)


def sketch(op: Operator, layout: Layout, key: Array, count: int, loop: Loop, probe: Probe = "gaussian") -> Sketch:
    """`count` products. Where A has fewer eigenvalues off zero, as far as rounding lets see, r is below `count`.

    Ω is not stored; for a moment three arrays [count, P] are.

    Raises:
        InputError: products that are not finite, or that do not fit into memory.
    """
    hardware.require_bytes(
        3 * count * sum(layout.lengths) * op.dtype.itemsize,
        f"a sketch of {count:,} products of {layout.size:,} numbers",
        'take fewer products, or method="hutchinson", which stores two vectors',
        together=layout.spans_processes,
    )
    products = [product_with(op, layout, probe_vector(layout, key, number, probe), loop) for number in range(count)]
    rows = jax.tree.map(lambda *x: jnp.stack(x), *products)
    scale = float(_size_of_largest(rows))
    require_finite(scale)
    if scale == 0:
        return Sketch(jax.tree.map(lambda x: x[:0], rows), np.zeros((0, count)), key)
    orthonormal, triangle = (
        _qr(rows, scale) if isinstance(rows, Array) and layout.mesh is None else _gram_schmidt(layout, rows, scale)
    )
    left, singular, right = np.linalg.svd(np.asarray(triangle, np.float64))
    rank = int((singular > _ROUNDINGS * float(jnp.finfo(op.dtype).eps) * singular[0]).sum())
    coefficients = scale * singular[:rank, None] * right[:rank]
    return Sketch(_rotate(orthonormal, numerics.on_device(left[:, :rank], op.dtype)), coefficients, key)


def probe_vector(layout: Layout, key: Array, number: int, probe: Probe = "gaussian") -> Vector:
    """ω [P] of length √P, so that E[ω ωᵀ] = I."""
    length = np.sqrt(np.asarray(layout.size, layout.dtype))
    return jax.tree.map(lambda x: x * length, vectors.draw(layout, key, probe, number))


def product_with(op: Operator, layout: Layout, vector: Vector, loop: Loop) -> Vector:
    """A v [P], compiled by itself where the loop is, so that one program serves any number of vectors."""
    return matvec_compiled(op, layout, vector) if loop == "scan" else matvec(op, layout, vector, loop)


_size_of_largest = jax.jit(vectors.size_of_largest)


@jax.jit
def _qr(rows: Array, scale: Array) -> tuple[Array, Array]:
    """Q [P, k] and R of `rows`ᵀ / scale."""
    return jnp.linalg.qr((rows / scale).T)


def _gram_schmidt(layout: Layout, rows: Vector, scale: float) -> tuple[Vector, np.ndarray]:
    """`_qr` of vectors that are spread over devices, as the transpose [k, P] of Q, with R."""
    count = jax.tree.leaves(rows)[0].shape[0]
    done, triangle = jax.tree.map(jnp.zeros_like, rows), np.zeros((count, count))
    for number in range(count):
        done, column = _next_row(layout, done, rows, scale, number)
        triangle[:, number] = column
    return jax.tree.map(jnp.transpose, done), triangle


@partial(jax.jit, static_argnums=0)
def _next_row(layout: Layout, done: Vector, rows: Vector, scale: Array, number: Array) -> tuple[Vector, Array]:
    """The rows with one more, and its column of R; the third pass is for what is rounding alone after the second."""
    vector = jax.tree.map(lambda x: x[number] / scale, rows)
    column = jnp.zeros(jax.tree.leaves(rows)[0].shape[0], layout.dtype)
    length = jnp.ones((), layout.dtype)
    for _ in range(3):
        along = vectors.dots(layout, done, vector)
        vector = jax.tree.map(lambda x, q, c=along: x - jnp.matmul(c, q, precision=numerics.EXACT), vector, done)
        now = vectors.norm(vector)
        vector = jax.tree.map(lambda x, n=now: x / jnp.where(n > 0, n, 1), vector)
        column, length = column + length * along, length * now
    done = jax.tree.map(lambda q, x: q.at[number].set(x), done, vector)
    return done, column.at[number].set(length)


@jax.jit
def _rotate(orthonormal: Vector, rotation: Array) -> Vector:
    return jax.tree.map(lambda q: jnp.matmul(rotation.T, q.T, precision=numerics.EXACT), orthonormal)


def hutchpp(op: Operator, key: Array, num_products: int, loop: Loop) -> TraceParts:
    """Tr A = Tr QᵀAQ + Tr B with B = (I − QQᵀ) A (I − QQᵀ), Q an orthonormal basis of A S for random S.

    Algorithm 1 of Meyer, Musco, Musco & Woodruff 2021: a third of the products each for A S, for A Q and for Tr B.
    Q does not depend on the probes of Tr B, which are therefore independent and unbiased whatever Q is.

    Departures. Where A S has a numerical rank below its width, Q is cut to that, and the products saved are not made.
    Probes are uniform on the sphere of the d dimensions that Q leaves, which takes the variance of their lengths out;
    one of them has the variance 2 d / (d + 2) (‖B‖²_F − Tr² B / d), and as ‖B v‖² estimates ‖B‖²_F from the same
    products, the standard error comes from that formula: of ten samples it is far steadier than their spread.
    """
    width = num_products // 3
    layout, (sketch_key, rest_key) = layout_of(op), jax.random.split(key)
    drawn = sketch(op, layout, sketch_key, width, loop)
    rows = [jax.tree.map(lambda x, i=i: x[i], drawn.basis) for i in range(drawn.rank)]
    inside = np.array([vectors.dot(q, product_with(op, layout, q, loop)) for q in rows], np.float64)
    samples = []
    for number in range(num_products - 2 * width):
        vector = _draw_outside(layout, drawn.basis, vectors.draw(layout, rest_key, "gaussian", number))
        samples.append(_quadratic_outside(layout, drawn.basis, vector, product_with(op, layout, vector, loop)))
    first, second, scale = np.array(samples, np.float64).T
    left = op.size - len(inside)
    trace, square = left * np.mean(scale * first), left * np.mean(scale**2 * second)
    variance = 2 * left / (left + 2) * max(square - trace**2 / left, 0.0)
    error = float(np.sqrt(variance / len(samples)))
    return TraceParts(np.append(inside, trace), error, len(inside) + num_products - width)


@partial(jax.jit, static_argnums=0)
def _draw_outside(layout: Layout, basis: Vector, vector: Vector) -> Vector:
    """The part of a vector orthogonal to the rows of `basis`, with length 1."""
    outside = _project(layout, basis, vector)
    length = vectors.plain_norm(outside)
    return jax.tree.map(lambda x: x / length, outside)


@partial(jax.jit, static_argnums=0)
def _quadratic_outside(layout: Layout, basis: Vector, vector: Vector, product: Vector) -> Array:
    return quadratic(vector, _project(layout, basis, product))


def _project(layout: Layout, basis: Vector, vector: Vector) -> Vector:
    for _ in range(2):  # once leaves rounding relative to the removed part, not to the remainder
        along = vectors.dots(layout, basis, vector)
        vector = jax.tree.map(lambda x, q, c=along: x - jnp.matmul(c, q, precision=numerics.EXACT), vector, basis)
    return vector


def xtrace(op: Operator, key: Array, num_products: int, loop: Loop) -> TraceParts:
    """The mean over i of Tr Q_iᵀAQ_i + ω_iᵀ (I − Q_iQ_iᵀ) A (I − Q_iQ_iᵀ) ω_i (Epperly, Tropp & Webber 2024).

    Q_i is an orthonormal basis of A ω_j for all j but i; the k = num_products // 2 vectors ω are uniform on a sphere,
    and are stretched after the projection to the length that belongs to the dimensions left, as the authors do.

    Departures. The bases come from an SVD of the triangular factor and not from its inverse, so that a sketch of
    numerical rank r < k needs no special case: then Q_i is Q for every i, and k + r products are made. A ω_i gives
    Qᵀ A ω_i too, for A is symmetric. The authors' standard error is the spread s of the k estimates over √k; but these
    share vectors, and come out alike, so that it is a quarter too small. Here the squared error is s² / k + c, where c
    is the covariance of two estimates. With Δ_ij the change of estimate i when ω_j is taken from its basis as well,
    c = E[Δ_ij Δ_ji] without bias: each estimate has mean Tr A given all vectors but its own, so that every other term
    of the covariance is zero.
    """
    layout = layout_of(op)
    drawn = sketch(op, layout, key, num_products // 2, loop)
    rank, count = drawn.coefficients.shape
    rows = [jax.tree.map(lambda x, i=i: x[i], drawn.basis) for i in range(rank)]
    along = partial(vectors.dots, layout, drawn.basis)
    inside = np.array([along(product_with(op, layout, q, loop)) for q in rows], np.float64).reshape(rank, rank)
    omega = np.array([along(probe_vector(layout, key, number)) for number in range(count)], np.float64)
    small = Small(inside, omega, drawn.coefficients.T, op.size)
    own = own_directions(small.image)
    rest = _estimates(small, slice(None), own)
    variance = estimates.standard_error(rest) ** 2 + _covariance(small, own, rest)
    error = float(np.sqrt(variance))
    return TraceParts(np.append(np.diag(inside), rest.mean()), error, count + rank)


class Small(NamedTuple):
    """Everything in the coordinates of Q, float64."""

    inside: np.ndarray  # [r, r] QᵀAQ
    omega: np.ndarray  # [k, r] Qᵀω_i
    image: np.ndarray  # [k, r] QᵀAω_i
    size: int  # P


def own_directions(image: np.ndarray) -> np.ndarray:
    """What Q has and Q_i has not: one unit vector for each i [k, 1, r], none where the others span all [k, 0, r].

    They are the normalised rows of the pseudo-inverse of `image`, whose columns are orthogonal.
    """
    count, rank = image.shape
    if rank < count:
        return np.zeros((count, 0, rank))
    dual = image / np.sum(image**2, axis=0)
    result: np.ndarray = (dual / np.linalg.norm(dual, axis=1, keepdims=True))[:, None]
    return result


def _estimates(small: Small, which: int | slice, lost: np.ndarray) -> np.ndarray:
    """Of the probes `which`, the estimates less Tr QᵀAQ, [n], where their bases lack `lost` [n, l, r], orthonormal."""
    omega, image = np.atleast_2d(small.omega[which], small.image[which])
    along = np.sum(lost * omega[:, None], axis=2)
    projected = omega - np.sum(along[:, :, None] * lost, axis=1)
    rank = omega.shape[1]
    missing = np.sum(
        (lost.reshape(lost.shape[0] * lost.shape[1], rank) @ small.inside).reshape(lost.shape) * lost, axis=(1, 2)
    )
    # ω_iᵀ A x − pᵀ A x, with p = Q `projected` the projection of ω_i and x = ω_i − p.
    first = np.sum(along * np.sum(lost * image[:, None], axis=2), axis=1)
    rest = first - np.sum(projected * (image - projected @ small.inside), axis=1)
    left = small.size - rank + lost.shape[1]
    result: np.ndarray = rest * left / (small.size - np.sum(projected**2, axis=1)) - missing
    return result


def _covariance(small: Small, own: np.ndarray, rest: np.ndarray) -> float:
    """The mean of Δ_ij Δ_ji over all pairs; what is negative is noise, and 0."""
    count = len(rest)
    if not own.size or count == 1:
        return 0.0
    changes = np.zeros((count, count))
    for i in range(count):
        others = np.arange(count) != i
        both = _orthonormal_pairs(own[i], own[others, 0])
        changes[i, others] = rest[i] - _estimates(small, i, both)
    return max(float(np.sum(changes * changes.T)) / (count * (count - 1)), 0.0)


def _orthonormal_pairs(first: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n, 2, r]: bases of the planes that a unit vector [1, r] spans with each of [n, r]."""
    for _ in range(2):
        others = others - (others @ first.T) * first
        others = others / np.linalg.norm(others, axis=1, keepdims=True)
    return np.stack([np.broadcast_to(first, others.shape), others], axis=1)
