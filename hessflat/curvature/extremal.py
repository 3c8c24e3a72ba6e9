"""Eigenpairs at the ends of the spectrum, by Lanczos that stops when they have converged."""

import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat import fold
from hessflat.curvature import krylov, precision, probes, trees
from hessflat.curvature.operators import Operator, loop_for
from hessflat.curvature.spectrum import RitzValue
from hessflat.curvature.tridiagonal import Ritz, ritz
from hessflat.errors import InputError, nearest

Which = Literal["largest", "smallest", "magnitude", "both"]

# Steps between two looks at the residuals: a look costs milliseconds, a step too many one product.
_BLOCK = 10


class EigenPairs(NamedTuple):
    """Ritz pairs with ‖A x − θ x‖ = residual, so some eigenvalue of A lies within `residuals` of each value."""

    values: np.ndarray  # [k] the sought end first; "both": the k largest, descending, then the k smallest, ascending
    vectors: Any  # tree like params with a leading axis [k], unit length
    residuals: np.ndarray  # [k]
    converged: np.ndarray  # [k] residual within rtol |value|, or within rounding at the scale of the operator
    num_products: int
    seconds: float


def eigenpairs(
    op: Operator,
    key: Array,
    k: int = 1,
    which: Which = "largest",
    rtol: float = 1e-3,
    max_steps: int = 200,
    start: Any = None,
    loop: fold.Loop | None = None,
) -> EigenPairs:
    """The k eigenpairs at one end of the spectrum (or at both), stopping as soon as they have converged.

    Lanczos with full re-orthogonalisation. A repeated eigenvalue shows once, unless fewer than k distinct ones exist:
    then the recurrence goes on from a fresh direction and copies appear as they should.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        k: how many, at each end asked for.
        which: "largest", "smallest" (most negative), "magnitude" (largest |λ|) or "both" ends.
        rtol: a pair has converged when its residual is at most `rtol` |value|.
        max_steps: products at most (clipped to P); the basis takes `max_steps` P numbers.
        start: warm start: a tree like params, flat [P], or `EigenPairs.vectors` of a related operator. Half of the
            first vector stays random, so that an eigenvalue which has overtaken the others is still found.
        loop: "scan", "host" or None to choose.

    Raises:
        InputError: counts out of range, an unknown end, a start of another shape, products that are not finite.
    """
    began = time.perf_counter()
    _require_options(op, key, k, which, rtol, max_steps)
    limit = min(max_steps, op.size)
    wanted = min(2 * k if which == "both" else k, op.size)
    loop = loop_for(op, loop)
    with precision.chosen():
        given = None if start is None else _as_rows(op, start)
        state = krylov.begin(_first_vector(op, key, given), limit, keep_basis=True)
        while True:
            state = _run(op, state, min(_BLOCK, limit - int(state.step)), loop)
            solved = _solve(state)
            chosen = _choose(solved.values, k, which)
            converged = _converged(solved, chosen, rtol, op.dtype)
            if int(state.step) == limit or (len(chosen) == wanted and converged.all()):
                break
            if not bool(jnp.any(state.vector != 0)):
                key, fresh = jax.random.split(key)
                state = _restart(state, fresh)
        coefficients = np.zeros((len(chosen), limit))
        coefficients[:, : len(solved.values)] = solved.vectors[:, chosen].T
        vectors = _vectors(op, state.basis, coefficients)
    return EigenPairs(
        solved.values[chosen],
        vectors,
        solved.residuals[chosen],
        converged,
        int(state.step),
        time.perf_counter() - began,
    )


def sharpness(
    op: Operator,
    key: Array,
    rtol: float = 1e-3,
    max_steps: int = 200,
    start: Any = None,
    loop: fold.Loop | None = None,
) -> RitzValue:
    """λ_max and the residual that bounds its error; the arguments are those of `eigenpairs`."""
    pairs = eigenpairs(op, key, 1, "largest", rtol, max_steps, start, loop)
    return RitzValue(float(pairs.values[0]), float(pairs.residuals[0]))


@jax.jit
def _first_vector(op: Operator, key: Array, given: Array | None) -> Array:
    random = probes.draw(key, op.size, op.dtype, "gaussian")
    if given is None:
        return random
    total = given.sum(axis=0)
    length = jnp.linalg.norm(total)
    mixed = random + total / jnp.where(length > 0, length, 1)
    return mixed / jnp.linalg.norm(mixed)


def _as_rows(op: Operator, start: Any) -> Array:
    """[r, P] from a tree, a flat vector, or a tree with a leading axis."""
    if isinstance(start, (jax.Array, np.ndarray)) and start.shape[-1:] == (op.size,) and start.ndim <= 2:
        return jnp.atleast_2d(jnp.asarray(start, op.dtype))
    shapes = [leaf.shape for leaf in jax.tree.leaves(op.params)]
    leaves = jax.tree.leaves(start)
    single = [jnp.shape(leaf) for leaf in leaves] == shapes
    if not single and [jnp.shape(leaf)[1:] for leaf in leaves] != shapes:
        raise InputError("start must be a tree like params, with or without a leading axis, or flat of shape (P,)")
    rows = [jnp.reshape(leaf, (1 if single else jnp.shape(leaf)[0], -1)) for leaf in leaves]
    return jnp.concatenate(rows, axis=1).astype(op.dtype)


_run_compiled = jax.jit(krylov.run, static_argnums=(2, 3))


def _run(op: Operator, state: krylov.State, num_steps: int, loop: fold.Loop) -> krylov.State:
    return (_run_compiled if loop == "scan" else krylov.run)(op, state, num_steps, loop)


@jax.jit
def _vectors(op: Operator, basis: Array, coefficients: Array) -> Any:
    return trees.unflatten(op.params, coefficients.astype(op.dtype) @ basis)


def _solve(state: krylov.State) -> Ritz:
    alphas, betas = np.asarray(state.alphas), np.asarray(state.betas)
    if not (np.isfinite(alphas).all() and np.isfinite(betas).all()):
        raise InputError("the operator gives products that are not finite; look at the loss at these parameters")
    return ritz(alphas, betas, int(state.step))


@jax.jit
def _restart(state: krylov.State, key: Array) -> krylov.State:
    """Go on from a random direction orthogonal to the exhausted space: T falls apart into blocks there."""
    vector = jax.random.normal(key, state.vector.shape, state.vector.dtype)
    for _ in range(2):
        vector = vector - (state.basis @ vector) @ state.basis
    return state._replace(vector=vector / jnp.linalg.norm(vector), betas=state.betas.at[state.step - 1].set(0))


def _choose(values: np.ndarray, k: int, which: Which) -> np.ndarray:
    """Positions of the wanted ones among ascending values, the most wanted first."""
    ascending = np.arange(len(values))
    if which == "magnitude":
        return np.argsort(-np.abs(values), kind="stable")[:k]
    if which == "smallest":
        return ascending[:k]
    if which == "largest":
        return ascending[::-1][:k]
    top = ascending[::-1][:k]
    return np.concatenate([top, np.setdiff1d(ascending[:k], top)])


def _converged(solved: Ritz, chosen: np.ndarray, rtol: float, dtype: jnp.dtype) -> np.ndarray:
    rounding = krylov.breakdown_tolerance(dtype) * np.abs(solved.values).max()
    return solved.residuals[chosen] <= np.maximum(rtol * np.abs(solved.values[chosen]), rounding)


def _require_options(op: Operator, key: Array, k: int, which: str, rtol: float, max_steps: int) -> None:
    known = ("largest", "smallest", "magnitude", "both")
    probes.require_key(key)
    probes.require_count("k", k)
    probes.require_count("max_steps", max_steps)
    if which not in known:
        raise InputError(f"unknown end {which!r}; {nearest(which, known)}")
    if k > op.size:
        raise InputError(f"k must be at most the size of the operator, {op.size}, got {k}")
    if not rtol > 0:
        raise InputError(f"rtol must be above 0, got {rtol!r}")
