"""The Gauss-Newton matrix of a softmax over many classes, whose logits are never in memory at once.

Logits are z = E h, with h [d] a hidden state and E [V, d] one matrix for all of them, which may depend on the same
parameters, as a tied embedding does. The second derivative of the cross-entropy by z is diag p − p pᵀ, p = softmax z,
whatever the label. So a product needs E, h, their tangents and sums over classes, which are taken a chunk at a time:

    ż_v = E_v·ḣ + Ė_v·h,   u_v = p_v (ż_v − Σ_w p_w ż_w),   ∂h = Σ_v u_v E_v,   ∂E_v = Σ_tokens u_v h.

With Σ_w p_w E_w, which does not depend on the vector, Σ_w p_w ż_w takes one product of matrices with the probabilities
less. A product takes seven products [n T, d] × [d, V] after the two that are the same for every vector; the gradient of
a loss that is chunked likewise takes four.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.operators.matrices import checked, linearised, single_term
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import user_function
from hessflat.curvature.operators.weights import Weighted, weighted_mean
from hessflat.utils.errors import InputError

# Few enough for a buffer [tokens, chunk] to be small, enough to keep products of matrices fast.
_CHUNK = 2048


def softmax_gauss_newton(
    hidden: Callable[..., Any],
    readout: Callable[..., Any],
    params: Any,
    data: Any,
    state: Any = None,
    chunk_size: int = _CHUNK,
) -> Operator:
    """The Gauss-Newton matrix of the mean cross-entropy of logits `hidden @ readout.T`, a chunk of classes at a time.

    It is `gauss_newton(predict, criterion, ...)` with these logits and the cross-entropy of any labels, and the model's
    Fisher per token, to rounding. The mean is over all labels, by `weights` of `Batches` where there are any. No array
    has as many numbers as there are logits. The matrix is that of Schraudolph (2002, *Fast curvature matrix-vector
    products for second-order gradient descent*).

    It may be called inside `jax.jit`.

    Args:
        hidden: `hidden(params, batch)` -> hidden states, floating [n, ..., d], one for each label.
        readout: `readout(params)` -> [V, d], a row for each class.
        params: pytree of floating arrays, or a flat array [P], at which the curvature is taken.
        data: the examples of the mean: `Batches`, a `Stream`, or a pytree of arrays [N, ...].
        state: a third argument of `hidden`, if given.
        chunk_size: how many numbers are in memory for each label at a time: logits of half as many classes, and their
            tangents.

    Raises:
        InputError: as `gauss_newton`; shapes that do not go together; weights of other labels; statistics over batches.

    >>> import jax, jax.numpy as jnp
    >>> import hessflat.curvature as cv
    >>> E, x = jax.random.normal(jax.random.key(0), (7, 3)), jax.random.normal(jax.random.key(1), (5, 4, 3))
    >>> def hidden(params, batch):
    ...     return jnp.tanh(batch["x"] @ params["w"])
    >>> params = {"w": jnp.eye(3), "E": E}
    >>> G = cv.softmax_gauss_newton(hidden, lambda params: params["E"], params, {"x": x}, chunk_size=2)
    >>> F = cv.model_fisher(lambda p, b: hidden(p, b) @ p["E"].T, params, {"x": x}, per="token")
    >>> bool(jnp.allclose(G.to_dense(), F.to_dense(), atol=1e-6))
    True
    """
    params, batches, extra = checked(params, data, state, hidden)
    chunk_size = numerics.require_count("chunk_size", chunk_size)
    if batches.in_memory and batches.statistics_batch is not None:
        raise InputError("a softmax in chunks is for examples that share no statistics: leave statistics_batch out")
    head, like = Head(user_function(hidden), user_function(readout)), batches.like
    outputs = numerics.output_shapes("hidden(params, batch), readout(params)", head, params, like.unweighted, *extra)
    _require_shapes(outputs, like)
    criterion = ChunkedCriterion(chunk_size)
    narrow = numerics.is_narrow_program(head, params, like.unweighted, *extra)
    product = SoftmaxProduct(chunk_size)
    return single_term(product, (head, criterion), ("each", "weighted mean"), params, batches, extra, narrow)


def _require_shapes(outputs: Any, like: Any) -> None:
    shapes = [getattr(output, "shape", None) for output in outputs]
    states, rows = shapes
    if (
        states is None
        or rows is None
        or len(states) < 2
        or len(rows) != 2
        or states[0] != like.num_examples
        or states[-1] != rows[1]
    ):
        raise InputError(
            f"hidden(params, batch) must be one array [{like.num_examples}, ..., d] and readout(params) one [V, d], "
            f"got shapes {states} and {rows}"
        )
    numerics.require_floating("hidden(params, batch), readout(params)", outputs)
    if isinstance(like.arrays, Weighted):
        weights = like.arrays.weights.shape
        if weights != states[:-1][: len(weights)]:
            raise InputError(f"weights must match the labels, of shape {states[:-1]}, got shape {weights}")


@dataclasses.dataclass(frozen=True)
class Head:
    """Hidden states [n, ..., d] and the matrix [V, d]; equal where the functions are the same."""

    hidden: Callable[..., Any]
    readout: Callable[..., Any]

    def __call__(self, params: Any, batch: Any, *state: Any) -> tuple[Any, Any]:
        states, matrix = self.hidden(params, batch, *state), self.readout(params)
        types: Any = [getattr(output, "dtype", None) for output in (states, matrix)]
        if types[0] == types[1] or not all(t is not None and jnp.issubdtype(t, jnp.floating) for t in types):
            return states, matrix
        wide = jnp.promote_types(*types)  # that of their product
        return states.astype(wide), matrix.astype(wide)


@dataclasses.dataclass(frozen=True)
class ChunkedCriterion:
    """The mean of log Σ_w exp z_w − z_0: the loss whose labels are all 0. Its second derivative is that of any."""

    chunk_size: int

    def __call__(self, outputs: tuple[Array, Array], batch: Any, *state: Any) -> Array:
        states, matrix = outputs
        flat = states.reshape(-1, states.shape[-1])
        log_sums, _ = _log_sums(flat, matrix, self.chunk_size)
        return weighted_mean((log_sums - flat @ matrix[0]).reshape(states.shape[:-1]), batch)


@dataclasses.dataclass(frozen=True)
class SoftmaxProduct:
    """Jᵀ (diag p − p pᵀ) J v, with J the derivative of the logits; equal where the chunks are."""

    chunk_size: int

    def __call__(self, functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
        (states, matrix), push, pull = linearised(lambda p: functions[0](p, batch), params)
        pushed, pushed_matrix = push(vector)
        flat, flat_pushed = (x.reshape(-1, x.shape[-1]) for x in (states, pushed))
        share = _shares(states.shape[:-1], batch, states.dtype)
        by_states, by_matrix = _curved(flat, matrix, flat_pushed, pushed_matrix, share, self.chunk_size)
        return pull((by_states.reshape(states.shape), by_matrix))


def _shares(shape: tuple[int, ...], batch: Any, dtype: Any) -> Array:
    """How much each label counts in the mean over a batch [tokens], as `weighted_mean` takes it."""
    count = math.prod(shape)
    if not isinstance(batch, Weighted):
        return jnp.full(count, 1 / count, dtype)
    weights = batch.weights.astype(dtype)
    each = math.prod(shape[weights.ndim :])
    return jnp.repeat(weights.ravel(), each) / (len(weights) * each)


def _chunks(number: int, chunk_size: int) -> tuple[Array, int]:
    """The first class of each chunk that is its own, and the size of all; the last chunk begins with classes of others.

    So no class is padded, and no matrix copied.
    """
    count = -(-number // min(max(chunk_size // 2, 1), number))
    size = -(-number // count)
    return size * jnp.arange(count), size


def _rows(matrix: Array, first: Array, size: int) -> tuple[Array, Array, Array]:
    """Where a chunk starts, its rows [size, d], and which of them are its own [1, size]."""
    start = jnp.minimum(first, len(matrix) - size)
    own = start + jnp.arange(size) >= first
    return start, jax.lax.dynamic_slice_in_dim(matrix, start, size), own[None]


def _log_sums(states: Array, matrix: Array, chunk_size: int) -> tuple[Array, Array]:
    """The logarithms of Σ_v exp z_v [tokens], and Σ_v p_v E_v [tokens, d], in one pass."""
    firsts, size = _chunks(len(matrix), chunk_size)

    def add(carry: tuple[Array, Array, Array], first: Array) -> tuple[tuple[Array, Array, Array], None]:
        largest, total, mean = carry
        _, rows, own = _rows(matrix, first, size)
        logits = jnp.where(own, states @ rows.T, -jnp.inf)
        top = jnp.maximum(largest, logits.max(axis=1))
        shrunk, masses = jnp.exp(largest - top), jnp.exp(logits - top[:, None])
        return (top, shrunk * total + masses.sum(axis=1), shrunk[:, None] * mean + masses @ rows), None

    zeros = jnp.zeros(len(states), states.dtype)
    (largest, total, mean), _ = jax.lax.scan(add, (zeros - jnp.inf, zeros, jnp.zeros_like(states)), firsts)
    return largest + jnp.log(total), mean / total[:, None]


def _curved(
    states: Array, matrix: Array, pushed: Array, pushed_matrix: Array, share: Array, chunk_size: int
) -> tuple[Array, Array]:
    """∂h [tokens, d] and ∂E [V, d] of the tangents ḣ and Ė."""
    log_sums, mean_row = _log_sums(states, matrix, chunk_size)
    firsts, size = _chunks(len(matrix), chunk_size)
    of_chunk = partial(_probabilities, states, matrix, log_sums)

    def add_row(total: Array, first: Array) -> tuple[Array, None]:
        start, _, probabilities = of_chunk(first, size)
        return total + probabilities @ jax.lax.dynamic_slice_in_dim(pushed_matrix, start, size), None

    mean_pushed_row, _ = jax.lax.scan(add_row, jnp.zeros_like(states), firsts)
    mean = jnp.sum(pushed * mean_row + states * mean_pushed_row, axis=1)

    both = jnp.concatenate([pushed, states], axis=1)  # so that the tangents of the logits are one product

    def add(carry: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
        by_states, by_matrix = carry
        start, rows, probabilities = of_chunk(first, size)
        pushed_rows = jax.lax.dynamic_slice_in_dim(pushed_matrix, start, size)
        changes = both @ jnp.concatenate([rows, pushed_rows], axis=1).T
        curved = share[:, None] * probabilities * (changes - mean[:, None])
        there = jax.lax.dynamic_slice_in_dim(by_matrix, start, size) + curved.T @ states
        return (by_states + curved @ rows, jax.lax.dynamic_update_slice_in_dim(by_matrix, there, start, 0)), None

    result, _ = jax.lax.scan(add, (jnp.zeros_like(states), jnp.zeros_like(matrix)), firsts)
    return result


def _probabilities(
    states: Array, matrix: Array, log_sums: Array, first: Array, size: int
) -> tuple[Array, Array, Array]:
    """Where a chunk starts, its rows [size, d], and the probabilities of its own classes [tokens, size]."""
    start, rows, own = _rows(matrix, first, size)
    return start, rows, jnp.where(own, jnp.exp(states @ rows.T - log_sums[:, None]), 0)
