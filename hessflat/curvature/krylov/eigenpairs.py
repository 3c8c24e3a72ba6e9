"""Extremal eigenpairs by thick-restart Lanczos, which stops when they have converged."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov.lanczos import step_callback
from hessflat.curvature.krylov.recurrence import State, breakdown_tolerance, initial_state, python_steps, scan_steps
from hessflat.curvature.operators import operator
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Devices, loop_for
from hessflat.curvature.stochtrace.estimates import RitzValue
from hessflat.utils import hardware
from hessflat.utils.convolution import Loop
from hessflat.utils.errors import InputError, nearest

Which = Literal["largest", "smallest", "magnitude", "both"]

# Products come in pairs. A check of the residuals needs the eigenvectors of a matrix of the size of the basis, which
# takes less than a millisecond while the basis is small. It becomes rarer as the basis grows, to stay below the cost
# of products.
_STEPS = 2
_CHECKS = 32


class EigenPairs(NamedTuple):
    """Ritz pairs with ‖A x − θ x‖ = residual; some eigenvalue of A lies within `residuals` of each value."""

    values: np.ndarray  # [k] the requested end first; "both": the k largest, descending, then the k smallest, ascending
    vectors: Any  # tree like params with a leading axis [k], unit length
    residuals: np.ndarray  # [k], at least the rounding of the largest value
    converged: np.ndarray  # [k] residual within rtol |value|, or within rounding at the scale of the operator
    num_products: int
    seconds: float
    precision: str


def eigenpairs(
    op: Operator,
    key: Array,
    k: int | tuple[int, int] = 1,
    which: Which = "largest",
    rtol: float = 1e-3,
    max_steps: int = 200,
    start: Any = None,
    num_vectors: int | None = None,
    loop: Loop | None = None,
    show_progress: bool = True,
    on_steps: Callable[[int], None] | None = None,
) -> EigenPairs:
    """The k extremal eigenpairs at one end of the spectrum or at both, computed until they have converged.

    The method is Lanczos with full re-orthogonalisation, restarted from the best Ritz vectors when `num_vectors` are
    stored (Wu and Simon 2000). A multiple eigenvalue appears once. Where fewer than k distinct eigenvalues exist, the
    recurrence continues from a new random direction, and multiple eigenvalues appear with their multiplicity.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        k: the number of pairs; for "both" the number at each end, or (largest, smallest).
        which: "largest", "smallest" (most negative), "magnitude" (largest |λ|) or "both" ends.
        rtol: a pair has converged when its residual is at most `rtol` |value|.
        max_steps: the maximum number of products, an even number.
        start: warm start: a tree like params, flat [P], or `EigenPairs.vectors` of a related operator. Half of the
            first vector stays random, so that no eigenvalue that has become extremal is missed.
        num_vectors: the number of P-vectors to store; None takes 20 more than k. More vectors need fewer products.
        loop: "scan", "python" or None to choose.
        show_progress: show a progress bar on a terminal.
        on_steps: called with the number of further products, instead of the bar.

    Raises:
        InputError: counts out of range, an unknown end, a start of another shape, vectors that do not fit into memory,
            products that are not finite.
    """
    began = time.perf_counter()
    counts, max_steps = _options(op, key, k, which, rtol, max_steps)
    num_pairs = min(sum(counts) if which == "both" else counts[0], op.size)
    num_vectors = _num_vectors(op, num_pairs, max_steps, num_vectors)
    basis.require_memory(op.size, op.dtype, num_vectors + num_pairs, "device", hardware.platform(op))
    loop, devices = loop_for(op, loop), operator.example_devices(op)
    warm_start = None if start is None else _as_rows(op, start)
    op = linearize(op)
    num_products, projected = 0, np.zeros((num_vectors, num_vectors))
    doing = f"{num_pairs} eigenpairs"
    with numerics.matmul_precision(), step_callback(max_steps, doing, show_progress, on_steps) as on_steps:
        first = numerics.draw_probe(key, op.size, op.dtype, "gaussian")
        if warm_start is not None:
            first = _mixed(first, warm_start)
        state, step, restarted = initial_state(first, num_vectors, True, "device", devices), 0, 0
        next_check = num_pairs
        while True:
            before = int(state.num_valid)
            state = _run(op, state, step, loop, devices)
            valid = int(state.num_valid)
            num_products, step = num_products + valid - before, valid
            on_steps(valid - before)
            exhausted = float(state.beta) == 0  # where the next vector is zero, and nowhere else
            over = num_products + _STEPS > max_steps or exhausted
            if valid < min(next_check, num_vectors) and not over:
                continue
            next_check = valid + max(_STEPS, valid // _CHECKS)
            _fill(projected, state, restarted, valid)
            values, coefficients = np.linalg.eigh(projected[:valid, :valid])
            residuals = np.abs(float(np.asarray(state.betas)[valid - 1]) * coefficients[-1])
            residuals = np.maximum(residuals, numerics.noise_floor(values, op.dtype, numerics.precision_name()))
            order = _by_preference(values, which, counts)
            chosen = _presented(order[:num_pairs], values, counts[0], which)
            converged = _converged(values, residuals, chosen, rtol, op.dtype)
            if len(chosen) == num_pairs and converged.all():
                break
            if num_products + _STEPS > max_steps or (exhausted and valid == op.size):
                break
            if valid == num_vectors:
                restarted = _num_restarted(num_pairs, num_vectors)
                best = order[:restarted]
                projected[:] = 0
                projected[np.arange(restarted), np.arange(restarted)] = values[best]
                border = 0.0 if exhausted else float(np.asarray(state.betas)[-1]) * coefficients[-1, best]
                projected[:restarted, restarted] = projected[restarted, :restarted] = border
                state = _restart(state, numerics.on_device(coefficients[:, best].T, op.dtype), devices)
                step = next_check = restarted
            if exhausted:
                fresh = numerics.draw_probe(key, op.size, op.dtype, "gaussian", num_products)
                state = _from_fresh_direction(state, fresh, devices)
        rows = np.zeros((len(chosen), num_vectors))
        rows[:, :valid] = coefficients[:, chosen].T
        combined = _combine(state.blocks, numerics.on_device(rows, op.dtype), devices)
        vectors = numerics.unravel(op.params, combined)
    seconds = time.perf_counter() - began
    return EigenPairs(
        values[chosen], vectors, residuals[chosen], converged, num_products, seconds, numerics.precision_name()
    )


def sharpness(
    op: Operator,
    key: Array,
    rtol: float = 1e-3,
    max_steps: int = 200,
    start: Any = None,
    loop: Loop | None = None,
) -> RitzValue:
    """The largest eigenvalue λ_max of `op`, with a residual within which some eigenvalue of the operator lies.

    For the Hessian of the training loss this is the sharpness (Cohen et al. 2021). Arguments and errors are those of
    `eigenpairs`.
    """
    pairs = eigenpairs(op, key, 1, "largest", rtol, max_steps, start, loop=loop)
    cost = (pairs.num_products, pairs.seconds, pairs.precision)
    return RitzValue(float(pairs.values[0]), float(pairs.residuals[0]), *cost)


@jax.jit
def _mixed(random: Array, start_rows: Array) -> Array:
    """A unit vector: the sum of a random one and the normalised sum of `start_rows` [r, P]."""
    total = start_rows.sum(axis=0)
    length = jnp.linalg.norm(total)
    mixed = random + total / jnp.where(length > 0, length, 1)
    result: Array = mixed / jnp.linalg.norm(mixed)
    return result


def _as_rows(op: Operator, start: Any) -> Array:
    """[r, P] from a tree, a flat vector, or a tree with a leading axis."""
    if isinstance(start, (jax.Array, np.ndarray)) and start.shape[-1:] == (op.size,) and start.ndim <= 2:
        return jnp.atleast_2d(numerics.on_device(start, op.dtype))
    shapes = [leaf.shape for leaf in jax.tree.leaves(op.params)]
    leaves = jax.tree.leaves(start)
    single = [jnp.shape(leaf) for leaf in leaves] == shapes
    if not single and [jnp.shape(leaf)[1:] for leaf in leaves] != shapes:
        raise InputError("start must be a tree like params, with or without a leading axis, or flat of shape (P,)")
    rows = [jnp.reshape(leaf, (1 if single else jnp.shape(leaf)[0], -1)) for leaf in leaves]
    return jnp.concatenate(rows, axis=1).astype(op.dtype)


def _num_vectors(op: Operator, num_pairs: int, max_steps: int, num_vectors: int | None) -> int:
    """The number of stored vectors; it is even, because steps run in pairs."""
    if num_vectors is None:
        num_vectors = num_pairs + 20
    else:
        num_vectors = numerics.require_count("num_vectors", num_vectors)
        if num_vectors < min(num_pairs + 4, op.size):
            raise InputError(f"num_vectors must be at least 4 more than the {num_pairs} eigenpairs, got {num_vectors}")
    number = min(num_vectors, max_steps, op.size)
    return number + number % 2


def _num_restarted(num_pairs: int, num_vectors: int) -> int:
    """The number of Ritz vectors that a restart keeps: the requested ones and half of the others."""
    number = num_pairs + (num_vectors - num_pairs) // 2
    return number - number % 2


def _run(op: Operator, state: State, step: int, loop: Loop, devices: Devices | None) -> State:
    run = scan_steps if loop == "scan" else python_steps
    return run(op, state, step, _STEPS, devices=devices)


def _fill(projected: np.ndarray, state: State, restarted: int, valid: int) -> None:
    """Write the α and β since the last restart into Qᵀ A Q."""
    alphas, betas = np.asarray(state.alphas, np.float64), np.asarray(state.betas, np.float64)
    operator.require_finite(alphas, betas)
    for i in range(restarted, valid):
        projected[i, i] = alphas[i]
        if i + 1 < valid:
            projected[i, i + 1] = projected[i + 1, i] = betas[i]


@partial(jax.jit, static_argnames="devices", donate_argnames="state")
def _restart(state: State, coefficients: Array, devices: Devices | None) -> State:
    """Replace the basis by `coefficients` [l, m] times the basis; the next vector stays."""
    rows = basis.combine(state.blocks, coefficients, devices)
    # Re-orthogonalisation reads whole blocks, so the old basis must be cleared.
    blocks = jax.tree.map(jnp.zeros_like, state.blocks)
    for number, row in enumerate(rows):
        blocks = basis.write_row(blocks, jnp.asarray(number), row, devices)
    count = jnp.asarray(len(rows), state.num_valid.dtype)
    # Re-orthogonalisation removes the components of the next product along these vectors.
    return state._replace(
        blocks=blocks, previous=jnp.zeros_like(state.previous), beta=jnp.zeros_like(state.beta), num_valid=count
    )


@partial(jax.jit, static_argnames="devices", donate_argnames="state")
def _from_fresh_direction(state: State, vector: Array, devices: Devices | None) -> State:
    """Continue from a random direction orthogonal to the exhausted space; T is block diagonal there."""
    vector = basis.orthogonalise(state.blocks, state.num_valid, vector, devices)
    last = jnp.where(state.num_valid > 0, state.num_valid - 1, 0)
    return state._replace(vector=vector / jnp.linalg.norm(vector), betas=state.betas.at[last].set(0))


_combine = jax.jit(basis.combine, static_argnums=2)


def _by_preference(values: np.ndarray, which: Which, counts: tuple[int, int]) -> np.ndarray:
    """Positions in ascending values, the requested end first; both ends alternate in the ratio of their counts."""
    ascending = np.arange(len(values))
    if which == "magnitude":
        return np.argsort(-np.abs(values), kind="stable")
    if which == "smallest":
        return ascending
    if which == "largest":
        return ascending[::-1]
    turns = np.minimum(ascending[::-1] / counts[0], (ascending + 0.5) / counts[1])
    return np.argsort(turns, kind="stable")


def _presented(positions: np.ndarray, values: np.ndarray, k: int, which: Which) -> np.ndarray:
    """Positions in the order of the result: for both ends the k largest, descending, then the smallest, ascending."""
    if which != "both":
        return positions
    descending = np.sort(positions)[::-1]
    return np.concatenate([descending[:k], descending[k:][::-1]])


def _converged(
    values: np.ndarray, residuals: np.ndarray, chosen: np.ndarray, rtol: float, dtype: jnp.dtype
) -> np.ndarray:
    rounding = breakdown_tolerance(dtype) * np.abs(values).max()
    result: np.ndarray = residuals[chosen] <= np.maximum(rtol * np.abs(values[chosen]), rounding)
    return result


def _options(
    op: Operator, key: Array, k: int | tuple[int, int], which: str, rtol: float, max_steps: int
) -> tuple[tuple[int, int], int]:
    """The numbers of pairs at each end, and of products at most."""
    operator.require_operator(op)
    numerics.require_key(key)
    if isinstance(k, tuple) and which != "both":
        raise InputError(f"k must be one whole number for the end {which!r}, got {k}; ask for 'both'")
    first, *others = (numerics.require_count("k", count) for count in (k if isinstance(k, tuple) else (k,)))
    counts = (first, others[0] if others else first)
    if max(counts) > op.size:
        raise InputError(f"k must be at most the size of the operator, {op.size}, got {k}")
    max_steps = numerics.require_count("max_steps", max_steps)
    if which not in get_args(Which):
        raise InputError(f"unknown end {which!r}; {nearest(which, get_args(Which))}")
    if not rtol > 0:
        raise InputError(f"rtol must be above 0, got {rtol!r}")
    return counts, max_steps
