"""One Lanczos recurrence: its state, one step of it, and a scan over steps.

Each step does `β_i q_{i+1} = A q_i − α_i q_i − β_{i−1} q_{i−1}`, then takes out again what the new vector has along
the earlier ones (classical Gram-Schmidt twice), and only then measures β_i. When β_i is within rounding of the running
size of T the Krylov space is exhausted: the recurrence ends, and the steps that follow are zeros and not counted.
Going on from a remainder that is all rounding is what gives false eigenvalues.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov.basis import Slabs, Storage
from hessflat.curvature.operators.batches import Devices
from hessflat.curvature.operators.operator import Operator, matvec
from hessflat.utils import loops

Reorthogonalise = Literal["full", "selective", "none"]


class State(NamedTuple):
    """The recurrence between two steps. With probes together every field has a leading probe axis."""

    slabs: Slabs  # the vectors so far, [m, P] in all, or none where they are not kept
    vector: Array  # [P] q_i; zero once the recurrence has ended
    previous: Array  # [P] q_{i-1}
    alphas: Array  # [m]
    betas: Array  # [m]
    beta: Array  # [] β_{i-1}
    scale: Array  # [] largest row sum of |T| so far
    num_valid: Array  # [] steps done before it ended
    overlaps: Array  # [2, m] estimates of q_i · q_k and q_{i-1} · q_k, where re-orthogonalisation is selective
    again: Array  # [] whether the next step re-orthogonalises because this one did


def breakdown_tolerance(dtype: jnp.dtype) -> float:
    """The β, relative to the size of T, below which a remainder is the rounding of one product."""
    return 50 * float(jnp.finfo(dtype).eps)


def begin(
    vector: Array, num_steps: int, keep_basis: bool, storage: Storage = "device", devices: Devices | None = None
) -> State:
    """The state before the first of at most `num_steps` steps, from a unit vector [P]."""
    slabs = basis.allocate(num_steps, vector.size, vector.dtype, storage, devices) if keep_basis else ()
    return _without_basis(vector, num_steps)._replace(slabs=slabs)


@partial(jax.jit, static_argnums=1)
def _without_basis(vector: Array, num_steps: int) -> State:
    dtype = vector.dtype
    return State(
        slabs=(),
        vector=vector,
        previous=jnp.zeros_like(vector),
        alphas=jnp.zeros(num_steps, dtype),
        betas=jnp.zeros(num_steps, dtype),
        beta=jnp.zeros((), dtype),
        scale=jnp.zeros((), dtype),
        num_valid=jnp.zeros((), jnp.int32),
        overlaps=jnp.zeros((2, num_steps), dtype),
        again=jnp.zeros((), bool),
    )


def advance(
    state: State, step: Array, product: Array, reorthogonalise: Reorthogonalise, devices: Devices | None = None
) -> State:
    """Step number `step`, given the product of the operator with `state.vector`."""
    slabs = basis.write(state.slabs, step, state.vector, devices)
    alpha, rest = propose(state, product)
    overlaps, again = state.overlaps, state.again
    if reorthogonalise == "full":
        rest = basis.orthogonalise(slabs, step + 1, rest, devices)
    elif reorthogonalise == "selective":
        overlaps = _next_overlaps(state, alpha, step, norm(rest))
        lost = jnp.abs(overlaps[0]).max() > jnp.sqrt(jnp.finfo(rest.dtype).eps)
        now = lost | state.again
        rest = basis.orthogonalise(slabs, jnp.where(now, step + 1, 0), rest, devices)
        fresh = jnp.finfo(rest.dtype).eps * (jnp.arange(state.alphas.size) <= step)
        overlaps = overlaps.at[0].set(jnp.where(now, fresh.astype(rest.dtype), overlaps[0]))
        again = lost & ~state.again
    return settle(state, step, alpha, rest)._replace(slabs=slabs, overlaps=overlaps, again=again)


def propose(state: State, product: Array) -> tuple[Array, Array]:
    """α_i, and what is left of the product without q_i and q_{i−1}."""
    alpha = jnp.vdot(state.vector, product)
    return alpha, product - alpha * state.vector - state.beta * state.previous


def settle(state: State, step: Array, alpha: Array, rest: Array) -> State:
    """The state after a step that has left `rest`, orthogonal to all vectors so far."""
    q = state.vector
    alive = jnp.any(q != 0)
    beta = norm(rest)
    scale = jnp.maximum(state.scale, jnp.abs(alpha) + beta + state.beta)
    goes_on = alive & (beta > breakdown_tolerance(q.dtype) * scale)
    return state._replace(
        vector=jnp.where(goes_on, rest / jnp.where(goes_on, beta, 1), 0),
        previous=q,
        alphas=state.alphas.at[step].set(alpha),
        betas=state.betas.at[step].set(jnp.where(alive, beta, 0)),
        beta=jnp.where(goes_on, beta, 0),
        scale=scale,
        num_valid=state.num_valid + alive,
    )


def run(
    op: Operator,
    state: State,
    first: int | Array,
    num_steps: int,
    loop: loops.Loop,
    reorthogonalise: Reorthogonalise = "full",
    together: bool = False,
    devices: Devices | None = None,
) -> State:
    """Steps `first` to `first + num_steps − 1` in one scan; a recurrence that has ended stays as it is."""
    product = partial(matvec, op, loop=loop)
    step = partial(advance if loop == "scan" else _advance_compiled, reorthogonalise=reorthogonalise, devices=devices)
    if together:
        product, step = jax.vmap(product), jax.vmap(step, in_axes=(0, None, 0))

    def body(state: State, number: Array) -> tuple[State, None]:
        return step(state, number, product(state.vector)), None

    return loops.scan(body, state, first + jnp.arange(num_steps), loop)[0]


def run_on_host(op: Operator, state: State, rows: np.ndarray, first: int, num_steps: int, loop: loops.Loop) -> State:
    """As `run`, fully re-orthogonalised, with the basis in the host's memory: `rows` [m, P], filled in place."""
    for step in range(first, first + num_steps):
        rows[step] = state.vector
        alpha, rest = _propose_compiled(op, state) if loop == "scan" else propose(state, matvec(op, state.vector, loop))
        vector, filled = np.array(rest), rows[: step + 1]
        for _ in range(2):
            vector -= (filled @ vector) @ filled
        state = _settle_compiled(state, step, alpha, jnp.asarray(vector))
    return state


run_compiled = jax.jit(run, static_argnums=range(3, 8), donate_argnums=1)


def norm(x: Array) -> Array:
    """The Euclidean norm without underflow: a saturated network's curvature can be 1e-30."""
    largest = jnp.abs(x).max()
    return largest * jnp.linalg.norm(x / jnp.where(largest > 0, largest, 1))


def _next_overlaps(state: State, alpha: Array, step: Array, beta: Array) -> Array:
    """Estimates of q_{i+1} · q_k by the recurrence that rounding errors obey (Simon 1984, eq. 2.7)."""
    alphas = state.alphas.at[step].set(alpha)
    number = jnp.arange(alphas.size)
    eps = jnp.finfo(alphas.dtype).eps
    now = jnp.where(number == step, 1.0, state.overlaps[0]).astype(alphas.dtype)
    before = jnp.where(number == step - 1, 1.0, state.overlaps[1]).astype(alphas.dtype)
    betas, below = state.betas, jnp.roll(state.betas, 1).at[0].set(0)
    moved = betas * jnp.roll(now, -1) + below * jnp.roll(now, 1) + (alphas - alpha) * now - state.beta * before
    safe = jnp.where(beta > 0, beta, 1)
    noise = eps * (betas + beta) / safe
    moved = moved / safe + jnp.sign(moved) * noise
    local = eps * jnp.sqrt(jnp.asarray(state.vector.size, alphas.dtype))
    following = jnp.where(number < step, moved, jnp.where(number == step, local, 0))
    return jnp.stack([following.astype(alphas.dtype), now.astype(alphas.dtype)])


# The old state is handed over, so that the basis is updated in place and not copied at every step.
_advance_compiled = jax.jit(advance, static_argnames=("reorthogonalise", "devices"), donate_argnames="state")
_propose_compiled = jax.jit(lambda op, state: propose(state, matvec(op, state.vector)))
_settle_compiled = jax.jit(settle)
