"""The diagonal of an operator: exactly, or from random probes with standard errors."""

import dataclasses
import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import host, numerics, vectors
from hessflat.curvature.exact import gram
from hessflat.curvature.exact.dense import require_dense
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import Operator, layout_of, require_finite, require_operator
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace.estimates import cost_since
from hessflat.curvature.stochtrace.trace import own_directions, probe_vector, product_with, sketch
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils.convolution import Loop
from hessflat.utils.errors import InputError

DiagonalMethod = Literal["exact", "hutchinson", "xdiag"]
_METHODS = ("exact", "hutchinson", "xdiag")
# So many random signs, and more, are as good as never linearly dependent.
_MANY = 100


@record(
    lambda self: f"a diagonal of {sum(leaf.size for leaf in jax.tree.leaves(self.values)):,} numbers",
    {"trace": lambda self: float(sum(np.asarray(leaf, np.float64).sum() for leaf in jax.tree.leaves(self.values)))},
)
class Diagonal(NamedTuple):
    """The diagonal of an operator, as a tree like the parameters."""

    values: Any  # a tree like the parameters
    standard_errors: Any  # a tree too; 0 where the diagonal is exact to rounding
    num_products: int  # of "exact", the rows of the Jacobian
    seconds: float
    precision: str


def diagonal(
    op: Operator,
    key: Array | None = None,
    num_products: int = 100,
    method: DiagonalMethod = "hutchinson",
    loop: Loop | None = None,
) -> Diagonal:
    """The diagonal of `op`.

    - "exact": for Gauss-Newton and Fisher matrices, and sums of them, it comes from the C rows of the Jacobian of every
      example. They take N C backward passes and the memory of a few vectors. For any other matrix it takes P products.
    - "hutchinson" (Bekas, Kokiopoulou & Saad 2007): the mean of z ⊙ A z over random signs z, unbiased. The variance of
      an entry is that of the rest of its row, Σ_j≠i A_ij² / n.
    - "xdiag" (Epperly, Tropp & Webber 2024): the diagonal of a random low-rank approximation, and the mean of what is
      left, with every vector used twice; unbiased. Far better where the spectrum decays, exact for ranks below n / 2;
      it stores 3 n vectors. Where P is at most n, or so small that random signs are linearly dependent, it takes the P
      products of the exact diagonal.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key; "exact" takes none.
        num_products: n; "exact" takes what it needs.
        method: "exact", "hutchinson" or "xdiag".
        loop: "scan", "python" or None to choose.

    Raises:
        InputError: an unknown method, no key, fewer than two products (four for "xdiag"), products that are not finite,
            or, for "exact", more than 20,000 parameters of a matrix that is none of those.

    >>> import jax, jax.numpy as jnp, hessflat.curvature as cv
    >>> A = cv.from_matvec(lambda v: v * jnp.array([8.0, 3.0]), jnp.zeros(2))
    >>> cv.diagonal(A, jax.random.key(0), 2).values.tolist()
    [8.0, 3.0]
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_option("method", method, _METHODS)
    op = op.as_it_is_now()
    if method == "exact":
        return _exact(op, began)
    if key is None:
        raise InputError(f"method {method!r} needs a key to draw probes from; method='exact' takes none")
    numerics.require_key(key)
    num_products = numerics.require_draws("num_products", num_products, 2 if method == "hutchinson" else 4)
    # A multiple of the identity is known, and no part of what decays.
    shift, op = op.shift, dataclasses.replace(op, shift=0.0)
    loop, layout, op = loop_for(op, loop), layout_of(op), linearize(op)
    with numerics.matmul_precision():
        if method == "xdiag" and (op.size <= num_products or _are_dependent(layout, key, num_products // 2)):
            return _by_columns(op + shift, began)
        if method == "hutchinson":
            mean, variance = _hutchinson(op, layout, key, num_products, loop)
        else:
            mean, variance, num_products = _xdiag(op, layout, key, num_products // 2, loop)
        errors = jax.tree.map(jnp.sqrt, vectors.to_tree(layout, variance))
        values = jax.tree.map(lambda x: x + shift, vectors.to_tree(layout, mean))
    require_finite(_sum(values), _sum(errors))
    return Diagonal(values, errors, *cost_since(began, num_products, op))


def _exact(op: Operator, began: float) -> Diagonal:
    found = _from_rows(op)
    return _by_columns(op, began) if found is None else _whole(op, *found, began)


def _by_columns(op: Operator, began: float) -> Diagonal:
    """The diagonal from P products."""
    require_dense(op)
    total = np.diagonal(np.asarray(op.to_dense(), np.float64))
    require_finite(total)
    return _whole(op, total, op.size, began)


def _whole(op: Operator, total: np.ndarray, rows: int, began: float) -> Diagonal:
    layout = layout_of(op)
    values = vectors.to_tree(layout, host.from_flat(layout, np.asarray(total, layout.dtype)))
    return Diagonal(values, jax.tree.map(jnp.zeros_like, values), *cost_since(began, rows, op))


def _from_rows(op: Operator) -> tuple[np.ndarray, int] | None:
    """The diagonal [P] and the number of rows, where every term is a Gauss-Newton matrix of separate examples."""
    total, rows = np.full(op.size, float(op.shift)), 0
    for coefficient, term in zip(op.coefficients, op.terms, strict=True):
        outputs = gram.num_outputs(Operator((term,), (1.0,)))
        if outputs is None or term.is_partitioned:
            return None
        with numerics.matmul_precision():
            own = gram.diagonal(term)
        if own is None:
            return None
        total, rows = total + float(coefficient) * own, rows + outputs
    return total, rows


def _are_dependent(layout: Layout, key: Array, count: int) -> bool:
    """Whether the probes are linearly dependent, so that the rank of what A makes of them says nothing of A."""
    if layout.size >= _MANY:
        return False
    probes = [probe_vector(layout, key, number, "rademacher") for number in range(count)]
    rows = jax.tree.map(lambda *x: jnp.stack(x), *probes)
    products = np.array([vectors.dots(layout, rows, probe) for probe in probes], np.float64)
    # Signs over √P: times P, their products are whole numbers.
    return bool(np.linalg.matrix_rank(np.rint(layout.size * products)) < count)


def _hutchinson(op: Operator, layout: Layout, key: Array, count: int, loop: Loop) -> tuple[Vector, Vector]:
    """The mean and its variance, by Welford's sums."""
    mean = vectors.zeros(layout)
    squares = vectors.zeros(layout)
    for number in range(count):
        z = probe_vector(layout, key, number, "rademacher")
        mean, squares = _add_sample(mean, squares, z, product_with(op, layout, z, loop), number + 1)
    return mean, jax.tree.map(lambda s: s / (count * (count - 1)), squares)


@jax.jit
def _add_sample(mean: Vector, squares: Vector, z: Vector, product: Vector, count: Array) -> tuple[Vector, Vector]:
    sample = jax.tree.map(jnp.multiply, z, product)
    new = jax.tree.map(lambda m, x: m + (x - m) / count, mean, sample)
    return new, jax.tree.map(lambda s, x, m, n: s + (x - m) * (x - n), squares, sample, mean, new)


def _xdiag(op: Operator, layout: Layout, key: Array, count: int, loop: Loop) -> tuple[Vector, Vector, int]:
    """The mean over i of diag(Q_i Q_iᵀ A) + ω_i ⊙ (I − Q_i Q_iᵀ) A ω_i, with Q_i a basis of A ω_j for all j but i.

    Q_i lacks one direction d_i of Q, so that estimate i is diag(Q Qᵀ A) + Q d_i ⊙ (ω_i (d_iᵀ c_i) − A Q d_i), with
    A ω_i = Q c_i.
    """
    drawn = sketch(op, layout, key, count, loop, "rademacher")
    rank = drawn.rank
    rows = [jax.tree.map(lambda x, i=i: x[i], drawn.basis) for i in range(rank)]
    if not rank:
        return vectors.zeros(layout), vectors.zeros(layout), count
    images = jax.tree.map(lambda *x: jnp.stack(x), *(product_with(op, layout, q, loop) for q in rows))
    base = jax.tree.map(lambda q, a: jnp.sum(q * a, axis=0), drawn.basis, images)
    own = own_directions(drawn.coefficients.T)
    if not own.size:
        return base, vectors.zeros(layout), count + rank
    lost = own[:, 0]
    omega = jax.tree.map(lambda *x: jnp.stack(x), *(probe_vector(layout, key, i, "rademacher") for i in range(count)))
    inner, along = (
        numerics.on_device(x, layout.dtype)
        for x in (np.clip(lost @ lost.T, -1, 1), np.einsum("ir,ri->i", lost, drawn.coefficients))
    )
    rotation = numerics.on_device(lost, layout.dtype)
    directions, images = (_rotated(rotation, x) for x in (drawn.basis, images))
    mean, variance = _mean_and_variance(directions, images, omega, inner, along)
    return jax.tree.map(jnp.add, base, mean), variance, count + rank


@jax.jit
def _rotated(rotation: Array, rows: Vector) -> Vector:
    return jax.tree.map(lambda x: jnp.matmul(rotation, x, precision=numerics.EXACT), rows)


@jax.jit
def _mean_and_variance(
    directions: Vector, images: Vector, omega: Vector, inner: Array, along: Array
) -> tuple[Vector, Vector]:
    """Of the estimates less diag(Q Qᵀ A), from rows Q d_i, A Q d_i and ω_i, d_i · d_j and d_iᵀ c_i.

    Estimates share vectors. The variance of their mean is s² / k + c, with c = E[Δ_ij Δ_ji] the covariance of two of
    them and Δ_ij the change of estimate i when ω_j is taken from its basis too, as for `trace.xtrace`.
    """
    count = len(along)

    def of_rows(q: Array, a: Array, w: Array) -> tuple[Array, Array]:
        samples = q * (w * along[:, None] - a)
        mean = samples.mean(axis=0)
        spread = jnp.sum((samples - mean[None]) ** 2, axis=0) / (count * (count - 1))

        def change(i: Array, j: Array) -> Array:
            sine = jnp.sqrt(jnp.maximum(1 - inner[i, j] ** 2, jnp.finfo(q.dtype).eps))
            q_own, a_own = ((x[j] - inner[i, j] * x[i]) / sine for x in (q, a))
            return -q_own * (w[i] * (-inner[i, j] * along[i] / sine) - a_own)

        def add(total: Array, pair: tuple[Array, ...]) -> tuple[Array, None]:
            i, j = pair
            return total + change(i, j) * change(j, i), None

        pairs = np.triu_indices(count, 1)
        shared, _ = jax.lax.scan(add, jnp.zeros_like(mean), tuple(map(jnp.asarray, pairs)))
        return mean, spread + jnp.maximum(shared / len(pairs[0]), 0)

    found = [of_rows(*x) for x in zip(*map(jax.tree.leaves, (directions, images, omega)), strict=True)]
    structure = jax.tree.structure(directions)
    means, variances = zip(*found, strict=True)
    return jax.tree.unflatten(structure, means), jax.tree.unflatten(structure, variances)


@jax.jit
def _sum(tree: Any) -> Array:
    return jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(tree)]).sum()
