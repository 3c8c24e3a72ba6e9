"""Curvature in the coordinates of a preconditioner: P^-1/2 A P^-1/2, whose eigenvalues are those of P^-1 A.

An optimiser that moves by −η P⁻¹ g is gradient descent in the coordinates P^½ w, and there the curvature is this
matrix.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from hessflat.curvature import numerics
from hessflat.curvature.operators.matrices import from_matvec
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Scaling, Term, multiplied, user_function
from hessflat.utils import hardware
from hessflat.utils.errors import InputError


def preconditioned(op: Operator, preconditioner: Any, *arrays: Any) -> Operator:
    """The operator of P^-1/2 A P^-1/2, symmetric, with the eigenvalues of P⁻¹ A.

    Cohen et al. (2022, *Adaptive gradient methods at the edge of stability*, section 3) call its largest eigenvalue the
    preconditioned sharpness. A product costs one of `op`, and two of P^-1/2. A shift s of `op` becomes s P⁻¹.

    It may be called inside `jax.jit`.

    Args:
        op: a sum of curvature matrices.
        preconditioner: P, a tree like `op.params` of positive numbers, such as `preconditioner` gives; or a function
            `root(vector, *arrays)` -> P^-1/2 v, linear and symmetric in a tree like the parameters.
        *arrays: the arrays of that function, as in `from_matvec`.

    Raises:
        InputError: a P of another structure, or not above 0; a function that gives another tree, or for parameters of
            less than 32 bits; an operator whose linearisation is made.

    >>> import jax, jax.numpy as jnp
    >>> import hessflat.curvature as cv
    >>> A = cv.from_matvec(lambda v: v * jnp.array([8.0, 3.0]), jnp.zeros(2))
    >>> cv.preconditioned(A, jnp.array([4.0, 1.0])).to_dense().tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """
    if not isinstance(op, Operator):
        raise InputError(f"this takes an operator, such as cv.hessian(...), got {type(op).__name__}")
    if not all(isinstance(term, Term) for term in op.terms):
        raise InputError("precondition the operator before its linearisation is made, not after")
    if callable(preconditioner):
        scaling = _of_function(op, preconditioner, arrays)
    else:
        scaling = Scaling(multiplied, (_factors(op, preconditioner),))
    terms = tuple(dataclasses.replace(term, scalings=(scaling, *term.scalings)) for term in op.terms)
    coefficients = op.coefficients
    if numerics.any_traced(op.shift) or op.shift != 0:
        (shifted,) = from_matvec(_itself, op.params).terms
        terms = (*terms, dataclasses.replace(shifted, scalings=(scaling,)))
        coefficients = (*coefficients, op.shift)
    return Operator(terms, coefficients)


def _itself(vector: Any) -> Any:
    return vector


def _of_function(op: Operator, root: Callable[..., Any], arrays: tuple[Any, ...]) -> Scaling:
    arrays = jax.tree.map(lambda x: x if numerics.any_shapes(x) else numerics.on_device(x), arrays)
    if narrow := [x.dtype.name for x in jax.tree.leaves(op.params) if jnp.finfo(x.dtype).bits < 32]:
        # Its own casts to the type of the parameters would round to it.
        raise InputError(f"P^-1/2 as a function takes parameters of 32 bits or more, got {narrow[0]}; give P as a tree")
    root, like, what = user_function(root), op.vector_like, "the product of P^-1/2"
    result = numerics.output_shapes(what, root, like, *arrays)
    numerics.require_like(what, result, like)
    return Scaling(root, arrays)


def _factors(op: Operator, preconditioner: Any) -> Any:
    """P^-1/2 as a tree of numbers, each leaf where that of the parameters lies."""
    given = numerics.as_arrays("P", preconditioner, shapes=True)
    numerics.require_like("P", given, op.params)
    if numerics.any_shapes((op.params, given)):
        return jax.tree.map(lambda p: p.update(dtype=jnp.promote_types(p.dtype, jnp.float32)), op.params)
    if not numerics.any_traced(given):
        least = dict(zip(_paths(given), np.asarray(_least(jax.tree.leaves(given)), np.float64), strict=True))
        if lost := [path for path, value in least.items() if not value > 0]:
            raise InputError(f"P{lost[0]} must be above 0, got {least[lost[0]]:g}; products divide by its square root")
    return jax.tree.map(_placed, _inverse_roots(given), op.params)


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]


@jax.jit
def _least(leaves: list[Array]) -> list[Array]:
    return [leaf.min(initial=jnp.inf) for leaf in leaves]


@partial(jax.jit, inline=True)
def _inverse_roots(tree: Any) -> Any:
    return jax.tree.map(lambda p: 1 / jnp.sqrt(numerics.widened(p)), tree)


def _placed(factor: Array, like: Any) -> Array:
    if numerics.any_traced((factor, like)) or not isinstance(like.sharding, NamedSharding):
        return factor
    result: Array = hardware.placed(factor, like.sharding)
    return result
