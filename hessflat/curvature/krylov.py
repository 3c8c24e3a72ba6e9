"""One Lanczos recurrence: its state, one step of it, and a scan over steps.

Each step does `β_i q_{i+1} = A q_i − α_i q_i − β_{i−1} q_{i−1}`, then takes out again what the new vector has along
the earlier ones (classical Gram-Schmidt twice, as matrix products), and only then measures β_i. When β_i is within
rounding of the running size of T the Krylov space is exhausted: the recurrence ends, and the steps that follow are
zeros and not counted. Going on from a remainder that is all rounding is what gives false eigenvalues.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat import fold
from hessflat.curvature.operators import Operator, matvec

Reorthogonalise = Literal["full", "none"]


class State(NamedTuple):
    """The recurrence before step `step`. With probes together every field has a leading probe axis."""

    basis: Array  # [m, P], or [0, P] where no vectors are kept
    vector: Array  # [P] q_i; zero once the recurrence has ended
    previous: Array  # [P] q_{i-1}
    alphas: Array  # [m]
    betas: Array  # [m]
    beta: Array  # [] β_{i-1}
    scale: Array  # [] largest row sum of |T| so far
    step: Array  # [] stays where the recurrence ended


def breakdown_tolerance(dtype: jnp.dtype) -> float:
    """The β, relative to the size of T, below which a remainder is the rounding of one product."""
    return 20 * float(jnp.finfo(dtype).eps)


def begin(vector: Array, num_steps: int, keep_basis: bool) -> State:
    """The state before the first of at most `num_steps` steps, from a unit vector [P]."""
    dtype = vector.dtype
    return State(
        # Arrays of their own, since the host loop gives each of them away.
        basis=jnp.zeros((num_steps if keep_basis else 0, vector.size), dtype),
        vector=vector,
        previous=jnp.zeros_like(vector),
        alphas=jnp.zeros(num_steps, dtype),
        betas=jnp.zeros(num_steps, dtype),
        beta=jnp.zeros((), dtype),
        scale=jnp.zeros((), dtype),
        step=jnp.zeros((), jnp.int32),
    )


def advance(state: State, product: Array, reorthogonalise: Reorthogonalise) -> State:
    """One step, given the product of the operator with `state.vector`."""
    q, i = state.vector, state.step
    alive = jnp.any(q != 0)
    basis = state.basis.at[i].set(q) if state.basis.shape[0] else state.basis
    alpha = jnp.vdot(q, product)
    rest = product - alpha * q - state.beta * state.previous
    if reorthogonalise == "full":
        for _ in range(2):
            rest = rest - (basis @ rest) @ basis
    beta = _norm(rest)
    scale = jnp.maximum(state.scale, jnp.abs(alpha) + beta + state.beta)
    goes_on = alive & (beta > breakdown_tolerance(q.dtype) * scale)
    return State(
        basis=basis,
        vector=jnp.where(goes_on, rest / jnp.where(goes_on, beta, 1), 0),
        previous=q,
        alphas=state.alphas.at[i].set(alpha),
        betas=state.betas.at[i].set(jnp.where(alive, beta, 0)),
        beta=jnp.where(goes_on, beta, 0),
        scale=scale,
        step=i + alive,
    )


def run(
    op: Operator,
    state: State,
    num_steps: int,
    loop: fold.Loop,
    reorthogonalise: Reorthogonalise = "full",
    together: bool = False,
) -> State:
    """`num_steps` more steps in one scan; a recurrence that has ended stays as it is."""
    product = partial(matvec, op, loop=loop)
    step = partial(advance if loop == "scan" else _advance_compiled, reorthogonalise=reorthogonalise)
    if together:
        product, step = jax.vmap(product), jax.vmap(step)

    def body(state: State, _: Array) -> tuple[State, None]:
        return step(state, product(state.vector)), None

    return fold.scan(body, state, jnp.arange(num_steps), loop)[0]


def orthogonality_loss(basis: Array, num_rows: Array) -> Array:
    """The largest |Q Qᵀ − I| over the rows in use."""
    in_use = jnp.arange(basis.shape[0]) < num_rows
    return jnp.abs(basis @ basis.T - jnp.diag(in_use.astype(basis.dtype))).max()


def _norm(x: Array) -> Array:
    """The Euclidean norm without underflow: a saturated network's curvature can be 1e-30."""
    largest = jnp.abs(x).max()
    return largest * jnp.linalg.norm(x / jnp.where(largest > 0, largest, 1))


# The old state is handed over, so that the basis is updated in place and not copied at every step.
_advance_compiled = jax.jit(advance, static_argnames="reorthogonalise", donate_argnames="state")
