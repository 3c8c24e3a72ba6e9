"""The Lanczos recurrence A q_i = β_{i−1} q_{i−1} + α_i q_i + β_i q_{i+1}: its state, one step, and a loop of steps.

A step subtracts α_i q_i and β_{i−1} q_{i−1} from the product A q_i. It then subtracts the components along all earlier
vectors (classical Gram-Schmidt, twice), which rounding has left, and takes β_i as the norm of the remainder. When β_i
is within rounding of the size of T so far, the Krylov space is exhausted. The recurrence then ends: later steps are
zeros and are not counted. Continuing from a remainder of pure rounding would give spurious eigenvalues.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from hessflat.curvature import host, numerics, vectors
from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov.basis import Blocks, Storage
from hessflat.curvature.operators.operator import Operator, matvec, require_finite
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils import processes
from hessflat.utils.convolution import Loop

Reorthogonalise = Literal["full", "selective", "none"]


class State(NamedTuple):
    """The recurrence between two steps. With probes side by side every field has a leading probe axis."""

    blocks: Blocks  # the vectors so far, [m, P] in all, or none where they are not stored
    vector: Vector  # [P] q_i; zero once the recurrence has ended
    previous: Vector  # [P] q_{i-1}
    alphas: Array  # [m]
    betas: Array  # [m]
    beta: Array  # [] β_{i-1}
    scale: Array  # [] largest row sum of |T| so far
    num_valid: Array  # [] steps done before it ended
    overlaps: Array  # [2, m] estimates of q_i · q_k and q_{i-1} · q_k, where re-orthogonalisation is selective
    repeat: Array  # [] whether the next step re-orthogonalises because this one did


class Limits(NamedTuple):
    """Numbers beyond which nothing may be missed."""

    values: np.ndarray  # [n]
    sides: np.ndarray  # [n] 1 where larger eigenvalues are looked for, −1 where smaller ones are


@partial(jax.jit, static_argnums=(0, 2, 3, 4))
def initial_state(
    layout: Layout, vector: Vector, num_steps: int, stores_basis: bool, storage: Storage = "device"
) -> State:
    """The state before the first of at most `num_steps` steps, from a unit vector."""
    dtype = layout.dtype
    return State(
        blocks=basis.allocate(layout, num_steps, storage) if stores_basis else (),
        vector=vector,
        previous=vectors.zeros(layout),
        alphas=jnp.zeros(num_steps, dtype),
        betas=jnp.zeros(num_steps, dtype),
        beta=jnp.zeros((), dtype),
        scale=jnp.zeros((), dtype),
        num_valid=jnp.zeros((), jnp.int32),
        overlaps=jnp.zeros((2, num_steps), dtype),
        repeat=jnp.zeros((), bool),
    )


def lanczos_step(layout: Layout, state: State, step: Array, product: Vector, reorthogonalise: Reorthogonalise) -> State:
    """The state after step number `step`, given the product of the operator with `state.vector`."""

    def local(state: State, step: Array, product: Vector) -> State:
        blocks = basis.write_row(layout, state.blocks, step, state.vector)
        alpha, rest = three_term_residual(layout, state, product)
        overlaps, repeat = state.overlaps, state.repeat
        if reorthogonalise == "full":
            rest = basis.orthogonalise(layout, blocks, step + 1, rest)
        elif reorthogonalise == "selective":
            eps = jnp.finfo(layout.dtype).eps
            overlaps = _next_overlaps(layout, state, alpha, step, vectors.norm(rest, layout.axes))
            lost = jnp.abs(overlaps[0]).max() > jnp.sqrt(eps)
            now = lost | state.repeat
            rest = basis.orthogonalise(layout, blocks, jnp.where(now, step + 1, 0), rest)
            fresh = eps * (jnp.arange(state.alphas.size) <= step)
            overlaps = overlaps.at[0].set(jnp.where(now, fresh.astype(layout.dtype), overlaps[0]))
            repeat = lost & ~state.repeat
        return normalise(layout, state, step, alpha, rest)._replace(blocks=blocks, overlaps=overlaps, repeat=repeat)

    whole, spec = PartitionSpec(), vectors.specs(layout, product)
    states = state_specs(layout, state)
    result: State = vectors.over_devices(layout, local, (states, whole, spec), states)(state, step, product)
    return result


def state_specs(layout: Layout, state: State) -> State:
    """The partition of each field over devices: vectors and the basis are spread, numbers are everywhere."""
    everywhere: Any = PartitionSpec()
    return State(*[everywhere] * len(State._fields))._replace(
        blocks=vectors.specs(layout, state.blocks),
        vector=vectors.specs(layout, state.vector),
        previous=vectors.specs(layout, state.previous),
    )


def three_term_residual(layout: Layout, state: State, product: Vector) -> tuple[Array, Vector]:
    """α_i, and the product minus α_i q_i and β_{i−1} q_{i−1}."""
    alpha = vectors.dot(state.vector, product, layout.axes)
    rest = lambda p, q, before: p - alpha * q - state.beta * before  # noqa: E731
    return alpha, jax.tree.map(rest, product, state.vector, state.previous)


def normalise(layout: Layout, state: State, step: int | Array, alpha: Array, rest: Vector) -> State:
    """The state after a step with the remainder `rest`, which is orthogonal to all vectors so far."""
    q = state.vector
    alive = vectors.any_nonzero(q, layout.axes)
    beta = vectors.norm(rest, layout.axes)
    scale = jnp.maximum(state.scale, jnp.abs(alpha) + beta + state.beta)
    goes_on = alive & (beta > breakdown_tolerance(layout.dtype) * scale)
    return state._replace(
        vector=jax.tree.map(lambda x: jnp.where(goes_on, x / jnp.where(goes_on, beta, 1), 0), rest),
        previous=q,
        alphas=state.alphas.at[step].set(alpha),
        betas=state.betas.at[step].set(jnp.where(alive, beta, 0)),
        beta=jnp.where(goes_on, beta, 0),
        scale=scale,
        num_valid=state.num_valid + alive,
    )


# The old state is donated, so that the basis is updated in place and not copied at every step.
@partial(jax.jit, static_argnames=("layout", "num_steps", "reorthogonalise", "together"), donate_argnames="state")
def scan_steps(
    op: Operator,
    layout: Layout,
    state: State,
    first: int | Array,
    num_steps: int,
    reorthogonalise: Reorthogonalise = "full",
    together: bool = False,
) -> State:
    """Steps `first` to `first + num_steps − 1` in one compiled loop; a recurrence that has ended is unchanged.

    With `together` every field of the state has a leading probe axis, and one product serves all probes.
    """
    product: Any = partial(matvec, op, layout)
    step = partial(lanczos_step, layout, reorthogonalise=reorthogonalise)
    if together:
        product, step = numerics.mapped(product), jax.vmap(step, in_axes=(0, None, 0))
    numbers = first + jnp.arange(num_steps)
    return jax.lax.scan(lambda state, number: (step(state, number, product(state.vector)), None), state, numbers)[0]


def python_steps(
    op: Operator,
    layout: Layout,
    state: State,
    first: int,
    num_steps: int,
    reorthogonalise: Reorthogonalise = "full",
) -> State:
    """`scan_steps` for one probe, with the loops over steps and over batches in Python."""
    for number in first + jnp.arange(num_steps):
        state = _step_compiled(layout, state, number, matvec(op, layout, state.vector, "python"), reorthogonalise)
        if layout.mesh is not None:
            jax.block_until_ready(state)  # before another program sums over devices
    return state


def host_steps(
    op: Operator, layout: Layout, state: State, rows: np.ndarray, first: int, num_steps: int, loop: Loop
) -> State:
    """`scan_steps` for one probe with its basis in the host's memory: `rows` [m, P], which is filled in place."""
    for step in range(first, first + num_steps):
        rows[step] = host.part_of(state.vector)
        if loop == "scan":
            alpha, rest = residual_compiled(op, layout, state)
        else:
            alpha, rest = _residual_of(layout, state, matvec(op, layout, state.vector, loop))
        vector, filled = host.part_of(rest), rows[: step + 1]
        for _ in range(2):
            vector -= host.sum_over_processes(filled @ vector, processes.spans(state)) @ filled
        state = _normalise_compiled(layout, state, step, alpha, host.from_part(layout, vector))
    return state


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def restart_from(layout: Layout, state: State, coefficients: Array) -> State:
    """Replace the basis by `coefficients` [l, m] times the basis; the next vector stays."""

    def local(blocks: Blocks, coefficients: Array) -> Blocks:
        # Re-orthogonalisation reads whole blocks, so the rest of the old basis must be cleared.
        return basis.replaced_by(layout, blocks, basis.combine(layout, blocks, coefficients))

    specs = vectors.specs(layout, state.blocks)
    blocks = vectors.over_devices(layout, local, (specs, PartitionSpec()), specs)(state.blocks, coefficients)
    # Re-orthogonalisation removes the components of the next product along these vectors.
    return state._replace(
        blocks=blocks,
        previous=jax.tree.map(jnp.zeros_like, state.previous),
        beta=jnp.zeros_like(state.beta),
        num_valid=jnp.asarray(len(coefficients), state.num_valid.dtype),
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def continue_from(layout: Layout, state: State, vector: Vector) -> State:
    """Continue from a direction orthogonal to all rows of the basis; T is block diagonal there."""

    def local(blocks: Blocks, num_rows: Array, vector: Vector) -> Vector:
        vector = basis.orthogonalise(layout, blocks, num_rows, vector)
        length = vectors.plain_norm(vector, layout.axes)
        return jax.tree.map(lambda x: x / length, vector)

    spec = vectors.specs(layout, vector)
    begin = vectors.over_devices(layout, local, (vectors.specs(layout, state.blocks), PartitionSpec(), spec), spec)
    last = jnp.where(state.num_valid > 0, state.num_valid - 1, 0)
    vector = begin(state.blocks, state.num_valid, vector)
    return state._replace(vector=vector, betas=state.betas.at[last].set(0))


def fill(projected: np.ndarray, state: State, restarted: int, valid: int) -> np.ndarray:
    """Write the α and β since the last restart into Qᵀ A Q, and return these β."""
    alphas, betas = np.asarray(state.alphas, np.float64), np.asarray(state.betas, np.float64)
    require_finite(alphas, betas)
    for i in range(restarted, valid):
        projected[i, i] = alphas[i]
        if i + 1 < valid:
            projected[i, i + 1] = projected[i + 1, i] = betas[i]
    return betas[restarted:valid]


def combine(layout: Layout, state: State, coefficients: np.ndarray) -> Vector:
    """The combinations [k, P] of the first m rows of the basis with `coefficients` [m, k]."""
    rows = np.zeros((coefficients.shape[1], len(state.alphas)))
    rows[:, : len(coefficients)] = coefficients.T
    return combine_on_devices(layout, state.blocks, numerics.on_device(rows, state.alphas.dtype))


def log_missed(limits: Limits, ritz: np.ndarray, betas: np.ndarray, kept: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The logarithm [n] of a bound on |e · f|, for eigenvectors e that were missed beyond each limit and the start f.

    From A V = V T + β v_{m+1} e_mᵀ, an eigenvector that was missed has, for its eigenvalue λ above all Ritz values θ_i,

        |e · f| ≤ β_m |[(λ − T)⁻¹]_{1m}| = Π β_i / Π (λ − θ_i),

    which falls with every step. In a recurrence that was restarted, this bounds the component of the first new vector
    instead of f, with the differences to the kept Ritz values in the numerator. Those of successive restarts multiply.

    Args:
        limits: where λ begins.
        ritz: [m] the θ_i.
        betas: the β_i since the last restart.
        kept: the Ritz values that the last restart kept; none where there was none.
        before: [n] the result of the runs before the last restart; zeros where there was none.
    """
    to_ritz = limits.sides[:, None] * (limits.values[:, None] - ritz)
    nearest = to_ritz.min(axis=1)
    # The kept values interlace with those of T; rounding must not place one beyond.
    to_kept = np.maximum(limits.sides[:, None] * (limits.values[:, None] - kept), nearest[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log(betas).sum() + np.log(to_kept).sum(axis=1) - np.log(to_ritz).sum(axis=1)
    return np.where(nearest > 0, before + change, np.inf)


def breakdown_tolerance(dtype: jnp.dtype) -> float:
    """The β, relative to the size of T, below which a remainder is the rounding of one product."""
    return 50 * float(jnp.finfo(dtype).eps)


def _next_overlaps(layout: Layout, state: State, alpha: Array, step: Array, beta: Array) -> Array:
    """Estimates of q_{i+1} · q_k [2, m] by the recurrence of rounding errors (Simon 1984, eq. 2.7)."""
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
    local = eps * jnp.sqrt(jnp.asarray(layout.size, alphas.dtype))
    following = jnp.where(number < step, moved, jnp.where(number == step, local, 0))
    return jnp.stack([following.astype(alphas.dtype), now.astype(alphas.dtype)])


def _residual_of(layout: Layout, state: State, product: Vector) -> tuple[Array, Vector]:
    spec = vectors.specs(layout, product)
    local = vectors.over_devices(
        layout,
        partial(three_term_residual, layout),
        (state_specs(layout, state), spec),
        (PartitionSpec(), spec),
    )
    result: tuple[Array, Vector] = local(state, product)
    return result


def _normalise_on_devices(layout: Layout, state: State, step: Array, alpha: Array, rest: Vector) -> State:
    states, whole = state_specs(layout, state), PartitionSpec()
    local = vectors.over_devices(
        layout, partial(normalise, layout), (states, whole, whole, vectors.specs(layout, rest)), states
    )
    result: State = local(state, step, alpha, rest)
    return result


_step_compiled = jax.jit(lanczos_step, static_argnums=(0, 4), donate_argnums=1)
residual_compiled = jax.jit(
    lambda op, layout, state: _residual_of(layout, state, matvec(op, layout, state.vector)), static_argnums=1
)
_normalise_compiled = jax.jit(_normalise_on_devices, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def combine_on_devices(layout: Layout, blocks: Blocks, coefficients: Array) -> Vector:
    """The combinations [k, P] of the basis with `coefficients` [k, m], which may be within a program."""
    specs = (vectors.specs(layout, blocks), PartitionSpec())
    out = vectors.specs(layout, blocks[0])
    return vectors.over_devices(layout, partial(basis.combine, layout), specs, out)(blocks, coefficients)
