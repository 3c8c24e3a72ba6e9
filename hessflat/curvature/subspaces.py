"""Top eigenspaces during training: how they turn, what of a gradient or an update lies in them, and where λ_max grows.

An eigenspace is known within an angle, ‖R‖ / gap, with R the residuals of its pairs and the gap to the next eigenvalue
(Davis and Kahan 1970). So k dimensions take k + 1 pairs, of the largest eigenvalues.
"""

import dataclasses
import math
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.krylov.eigenpairs import EigenPairs
from hessflat.curvature.operators.operator import Operator, require_finite, require_operator
from hessflat.curvature.operators.terms import Term, over, term_product
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.errors import InputError


@record(
    "the gradient of an eigenvalue", {"λ": "value", "‖∇λ‖": "norm", "change by the update": "change", "cos": "cosine"}
)
class SharpnessGradient(NamedTuple):
    """How an eigenvalue changes with the parameters, to first order."""

    gradient: Any  # ∇λ, a tree like the parameters
    value: float  # u'Au, with u of unit length
    norm: float  # ‖∇λ‖
    change: float  # of λ by the updates; nan without them
    cosine: float  # of the angle between ∇λ and the updates; nan without them, or where one of them is zero
    num_products: int
    seconds: float
    precision: str


@record("a share of a subspace", {"share": "value ± error"})
class Share(NamedTuple):
    """A number from 0 to 1, with a bound of its error."""

    value: float  # from 0 to 1, without a unit
    error: float  # from the residuals of the pairs over the gap behind them; 1 where the gap is not known to be open


def sharpness_gradient(op: Operator, vector: Any, updates: Any = None) -> SharpnessGradient:
    """∇λ of a simple eigenvalue λ of A(w), the gradient of u'A(w)u with its eigenvector u held fixed.

    Along −∇L it is the rate of progressive sharpening, by which gradient descent comes to its edge, and along ∇λ
    self-stabilisation brings it back (Damian et al. 2023, *Self-stabilization*, section 4). It takes about as long as
    four products. A preconditioner is held fixed too. An error of u changes ∇λ to first order.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: a sum of curvature matrices at w.
        vector: u, a tree like the parameters or the vectors of `EigenPairs`, of which the first is taken.
        updates: what an optimiser adds to the parameters, a tree like them.

    Raises:
        InputError: an operator whose linearisation is made, vectors of another structure or zero, a gradient that is
            not finite.

    >>> import jax.numpy as jnp
    >>> import hessflat.curvature as cv
    >>> H = cv.hessian(lambda w, x: jnp.mean(x * w**3) / 6, jnp.ones(1), jnp.ones((3, 1)))
    >>> sharpness_gradient(H, jnp.ones(1)).gradient.tolist()  # λ is w
    [1.0]
    """
    began = time.perf_counter()
    require_operator(op)
    if not all(isinstance(term, Term) for term in op.terms):
        raise InputError("take the gradient before the operator's linearisation is made, not after")
    u = _first_of("vector", op, vector)
    length = float(jnp.sqrt(_dot(u, u)))
    if not length > 0:
        raise InputError("vector must not be zero: it is the eigenvector")
    u = jax.tree.map(lambda x: x / length, u)
    value, total = 0.0, jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), op.vector_like)
    with numerics.matmul_precision():
        for coefficient, term in zip(op.coefficients, op.as_it_is_now().terms, strict=True):
            with term.batches.parts() as parts:
                for part in parts:
                    for start, size in part.cuts:
                        weight = coefficient * size / term.batches.num_examples
                        form, total = _add_gradient(total, weight, over(term, part), u, np.int32(start), size)
                        value += float(weight) * float(form)
    norm = float(jnp.sqrt(_dot(total, total)))
    require_finite(value, norm)
    change = cosine = float("nan")
    if updates is not None:
        updates = _first_of("updates", op, updates)
        change, size = float(_dot(total, updates)), norm * float(jnp.sqrt(_dot(updates, updates)))
        cosine = change / size if size > 0 else cosine
    value += float(op.shift)
    return SharpnessGradient(total, value, norm, change, cosine, *estimates.cost_since(began, 4, op))


def subspace_overlap(first: EigenPairs, second: EigenPairs, k: int) -> Share:
    """‖V'W‖_F² / k of the eigenspaces V and W of the k largest eigenvalues of two operators, as at two steps.

    1 where they are the same, and about k / P where they have nothing to do with each other; Gur-Ari et al. (2018,
    *Gradient descent happens in a tiny subspace*, section 3).

    It looks at values, and so is called outside `jax.jit`.

    Args:
        first: at least k + 1 pairs of the largest eigenvalues of one operator.
        second: of another, of the same parameters.
        k: the dimension.

    Raises:
        InputError: too few pairs, or of another end, or of other parameters.
    """
    angles = [_angle(pairs, k) for pairs in (first, second)]
    if not numerics.same_structure(first.vectors, second.vectors):
        raise InputError("both eigenspaces must be of the same parameters")
    squares = float(_squared_inner(first.vectors, second.vectors, k))
    # Of two projections of rank k, one of which turns by an angle: ‖P − P'‖_F is at most √2 times its sines.
    return Share(squares / k, float(min(1.0, np.sqrt(2 / k) * sum(angles))))


def subspace_share(vector: Any, pairs: EigenPairs, k: int) -> Share:
    """‖V'x‖² / ‖x‖² of a vector x, such as a gradient or an update, in the eigenspace V of the k largest eigenvalues.

    Gur-Ari et al. (2018, *Gradient descent happens in a tiny subspace*).

    It looks at values, and so is called outside `jax.jit`.

    Args:
        vector: x, a tree like the parameters.
        pairs: as in `subspace_overlap`.
        k: the dimension.

    Raises:
        InputError: as there; a vector of another structure, or zero.
    """
    angle = _angle(pairs, k)
    one = jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), pairs.vectors)
    vector = numerics.as_arrays("vector", vector)
    numerics.require_like("vector", vector, one)
    numerics.require_values(vector)
    largest = max(float(jnp.abs(leaf).max(initial=0)) for leaf in jax.tree.leaves(vector))
    if not largest > 0:
        raise InputError("vector must not be zero: it has no direction")
    # Squares of large or small numbers overflow or underflow; a power of two rounds nothing.
    vector = jax.tree.map(lambda x: x * 2.0 ** -math.frexp(largest)[1], vector)
    inside = float(_squared_inner(pairs.vectors, jax.tree.map(lambda x: x[None], vector), k, 1))
    return Share(inside / float(_dot(vector, vector)), min(1.0, angle))


def _angle(pairs: EigenPairs, k: int) -> float:
    """A bound of the sine of the angle, in the Frobenius norm, between the first k vectors and the eigenspace."""
    k = numerics.require_count("k", k)
    numerics.require_values(pairs)
    values = np.asarray(pairs.values)
    if len(values) <= k:
        raise InputError(f"{k} dimensions take at least {k + 1} pairs, for the gap after them, got {len(values)}")
    if (np.diff(values) > 0).any():
        raise InputError("the pairs must be those of the largest eigenvalues, which='largest'")
    gap = values[k - 1] - pairs.residuals[k - 1] - values[k] - pairs.residuals[k]
    return float(np.linalg.norm(pairs.residuals[:k]) / gap) if gap > 0 else float("inf")


@partial(jax.jit, static_argnames=("k", "other"))
def _squared_inner(a: Any, b: Any, k: int, other: int | None = None) -> Array:
    """The sum of squared inner products of the first k rows of one tree with those of another."""
    count = k if other is None else other
    parts = [
        jnp.matmul(x[:k].reshape(k, -1), y[:count].reshape(count, -1).T, precision=numerics.EXACT)
        for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    ]
    return jnp.sum(jnp.square(sum(parts[1:], parts[0])))


@partial(jax.jit, static_argnames="size")
def _add_gradient(total: Any, weight: Any, term: Term, u: Any, start: Array, size: int) -> tuple[Array, Any]:
    """U'Au over some examples, and `total` with the multiple of its gradient."""
    batch = dataclasses.replace(term.batches, arrays=term.batches.take(start, size), batch_size=None)

    def form(params: Any) -> Array:
        return vectors.dot(u, term_product(dataclasses.replace(term, params=params, batches=batch), u))

    value, gradient = jax.value_and_grad(form)(term.params)
    return value, jax.tree.map(lambda t, g: t + jnp.asarray(weight, t.dtype) * g.astype(t.dtype), total, gradient)


def _first_of(what: str, op: Operator, tree: Any) -> Any:
    """`tree`, or the first of several along a leading axis, in the types of vectors."""
    tree = numerics.as_arrays(what, tree)
    if numerics.same_structure(tree, op.params):
        shapes = [leaf.shape for leaf in jax.tree.leaves(op.vector_like)]
        if [leaf.shape[1:] for leaf in jax.tree.leaves(tree)] == shapes:
            tree = jax.tree.map(lambda leaf: leaf[0], tree)
    numerics.require_like(what, tree, op.params)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), tree, op.vector_like)


_dot = jax.jit(vectors.dot)
