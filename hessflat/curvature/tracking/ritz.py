"""The largest eigenvalues of an operator that changes little from call to call, in one program.

The recurrence begins with what the last call found: the sum of its k Ritz vectors, of half of the next one and of a
tenth of a random one. It ends when the residuals are small, or after a number of steps. Values that come closer to each
other than the tolerance are one value to such a short recurrence; half of the next Ritz vector lets it tell the first
from one that overtakes it. An eigenvector that the start has almost nothing of is missed for a while: so every tenth
call begins half at random, as `eigenpairs` does, and takes all its steps. Random numbers are drawn there alone, and
serve the nine calls that follow.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.krylov.recurrence import State, combine_on_devices, initial_state, lanczos_step
from hessflat.curvature.operators.operator import Operator, matvec
from hessflat.curvature.vectors import Layout, Vector

THOROUGH = 10  # every so many calls
_NEXT, _RANDOM = 0.5, 0.1  # of the next Ritz vector and of a random one, beside one for each that is asked for


class Settings(NamedTuple):
    """What is asked for; static."""

    k: int
    num_steps: int
    rtol: float


class Ritz(NamedTuple):
    """The k largest Ritz values, descending, each within `residuals` of an eigenvalue."""

    values: Array  # [k]
    residuals: Array  # [k]
    vectors: Vector  # [k + 2, P], unit length: the first k, the next one, and a random one
    num_products: Array  # []


def num_kept(settings: Settings) -> int:
    """The number of vectors that one call leaves for the next, a random one last."""
    return min(settings.k + 1, settings.num_steps) + 1


def largest(
    op: Operator, layout: Layout, settings: Settings, kept: Vector, key: Array, thorough: Array, epsilon: float
) -> Ritz:
    """The k largest eigenvalues of `op`.

    Args:
        op: a symmetric operator of size P.
        layout: where its vectors lie.
        settings: static settings.
        kept: `Ritz.vectors` of the last call; zeros for the first.
        key: for the random part of the start.
        thorough: whether to begin half at random and to take all steps.
        epsilon: the rounding of a product relative to the operator's size.
    """
    k, num_steps, rtol = settings
    random = jax.lax.cond(
        thorough, lambda: random_vector(layout, key), lambda: jax.tree.map(lambda rows: rows[-1], kept)
    )
    first = _start(layout, k, kept, random, thorough)
    state = initial_state(layout, first, num_steps, True)
    tolerance = jnp.where(thorough, 0.0, rtol)

    def goes_on(carry: tuple[State, Any]) -> Array:
        state, (values, _, residuals) = carry
        is_small = (residuals[:k] <= tolerance * jnp.abs(values[:k])).all() & (state.num_valid > k)
        # A recurrence whose next vector is zero has ended.
        result: Array = (state.num_valid < num_steps) & ~is_small & ((state.beta > 0) | (state.num_valid == 0))
        return result

    def step(carry: tuple[State, Any]) -> tuple[State, Any]:
        state, _ = carry
        product = matvec(op, layout, state.vector)
        state = lanczos_step(layout, state, state.num_valid, product, "full")
        return state, _pairs(state)

    state, (values, coefficients, residuals) = jax.lax.while_loop(goes_on, step, (state, _pairs(state)))
    exists = jnp.arange(num_steps) < state.num_valid
    # The rounding of products is relative to the largest eigenvalue in magnitude, which may be a negative one.
    residuals = jnp.maximum(residuals, epsilon * jnp.where(exists, jnp.abs(values), 0).max())
    is_finite = jnp.isfinite(state.alphas).all() & jnp.isfinite(state.betas).all()
    chosen = jnp.where(exists[:, None], coefficients.T, 0)[: num_kept(settings) - 1]
    rows = combine_on_devices(layout, state.blocks, chosen)
    rows = jax.tree.map(lambda rows, own: jnp.concatenate([rows, own[None]]), rows, random)
    is_known = (exists & is_finite)[:k]
    values, residuals = (jnp.where(is_known, x[:k], jnp.nan) for x in (values, residuals))
    return Ritz(values, residuals, rows, state.num_valid)


def random_vector(layout: Layout, key: Array) -> Vector:
    """A unit vector, uniform on the sphere, drawn inside a program."""
    return _unit(vectors.drawn_inside(layout, key, jax.random.normal))


def _start(layout: Layout, k: int, kept: Vector, random: Vector, thorough: Array) -> Vector:
    """The first vector: what was kept, and a random one; this one alone where nothing was kept."""
    number = jnp.arange(jax.tree.leaves(kept)[0].shape[0] - 1)
    weights = jnp.where(number < k, 1.0, _NEXT).astype(layout.dtype)
    weights = jnp.where(thorough, (number < k) / jnp.sqrt(jnp.asarray(k, layout.dtype)), weights)
    share = jnp.where(thorough, 1.0, _RANDOM).astype(layout.dtype)
    known = jax.tree.map(lambda rows: jnp.matmul(weights, rows[:-1], precision=numerics.EXACT), kept)
    mixed = jax.tree.map(lambda a, b: a + share * b, known, random)
    length = vectors.plain_norm(mixed)
    # They may cancel where P = 1.
    return jax.tree.map(lambda a, b: jnp.where(length > 1e-3, a / jnp.where(length > 0, length, 1), b), mixed, random)


def _unit(vector: Vector) -> Vector:
    length = vectors.plain_norm(vector)
    return jax.tree.map(lambda x: x / length, vector)


def _pairs(state: State) -> tuple[Array, Array, Array]:
    """Ritz values [m], descending, coefficients [m, m] in columns, and residuals [m]; the steps not done come last."""
    number = jnp.arange(len(state.alphas))
    done = number < state.num_valid
    beside = jnp.where(number[1:] < state.num_valid, state.betas[:-1], 0)
    below = jnp.where(state.scale > 0, -4 * state.scale, -1)  # no Ritz value is
    matrix = jnp.diag(jnp.where(done, state.alphas, below)) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    values, coefficients = jnp.linalg.eigh(matrix)
    last = jnp.maximum(state.num_valid - 1, 0)
    residuals = jnp.abs(state.betas[last] * coefficients[last])
    return values[::-1], coefficients[:, ::-1], residuals[::-1]
