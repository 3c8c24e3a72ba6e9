"""The loss that an operator is the Hessian of, and its gradient."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.operators.matrices import hessian_product
from hessflat.curvature.operators.operator import Operator, value_over
from hessflat.curvature.operators.terms import Term, over
from hessflat.utils.errors import InputError


def gradient(op: Operator) -> Any:
    """The gradient of the loss whose Hessian `op` is, a tree like the parameters, in float32 at least.

    It is of Σ c_j L_j + s ‖w‖² / 2 for a sum of Hessians with a shift s, and takes one pass over the data of each.
    It may be called inside `jax.jit`.

    Args:
        op: a Hessian, or a sum of several.

    Raises:
        InputError: an operator that is the Hessian of no loss that it holds.

    >>> import jax.numpy as jnp
    >>> import hessflat.curvature as cv
    >>> H = cv.hessian(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones(2), jnp.eye(2))
    >>> gradient(H).tolist()
    [1.0, 1.0]
    """
    require_loss(op)
    total = jax.tree.map(lambda w, like: op.shift * w.astype(like.dtype), op.params, op.vector_like)
    with numerics.matmul_precision():
        for coefficient, term in zip(op.coefficients, op.as_it_is_now().terms, strict=True):
            with term.batches.parts() as parts:
                for part in parts:
                    piece = over(term, part)
                    for start, size in part.cuts:
                        weight = coefficient * size / term.batches.num_examples
                        total = _add_gradient(total, weight, piece, np.int32(start), size)
                    if not numerics.any_traced(total):
                        jax.block_until_ready(total)
    return total


def loss_at(op: Operator, params: Any) -> Array:
    """The loss whose Hessian `op` is, at other parameters, without checks, for data in memory; under `jit`."""
    total: Array = op.shift * vectors.dot(params, params).astype(op.dtype) / 2
    for coefficient, term in zip(op.coefficients, op.terms, strict=True):
        there, batches = dataclasses.replace(term, params=params), term.batches
        whole = jnp.zeros((), op.dtype)
        if batches.count == 1:
            whole = batches.size * value_over(there, 0, batches.size).astype(op.dtype)
        else:
            starts = batches.size * jnp.arange(batches.count)
            add = lambda total, start, t=there, n=batches.size: (total + n * value_over(t, start, n), None)  # noqa: E731
            whole, _ = jax.lax.scan(add, whole, starts)
        for start, size in batches.rest:
            whole += size * value_over(there, start, size).astype(op.dtype)
        total += coefficient * whole / batches.num_examples
    return total


def require_loss(op: Any) -> None:
    """Refuse what is no Hessian of a loss, or a sum of them.

    Raises:
        InputError: a known map, another curvature matrix, a preconditioned one, or a linearisation.
    """
    if not isinstance(op, Operator):
        raise InputError(f"this takes an operator, such as cv.hessian(...), got {type(op).__name__}")
    if not all(isinstance(term, Term) and term.product is hessian_product for term in op.terms):
        raise InputError(
            "this needs the loss, which Hessians hold: give cv.hessian(...), not of another matrix or a linearisation"
        )
    if any(term.scalings for term in op.terms):
        raise InputError("this takes the Hessian in the coordinates of the parameters, not a preconditioned one")


@partial(jax.jit, static_argnames="size")
def _add_gradient(total: Any, weight: Any, term: Term, start: Array, size: int) -> Any:
    def value(params: Any) -> Any:
        return value_over(dataclasses.replace(term, params=params), start, size)

    gradient = jax.grad(value)(term.params)
    return jax.tree.map(lambda t, g: t + jnp.asarray(weight, t.dtype) * g.astype(t.dtype), total, gradient)
