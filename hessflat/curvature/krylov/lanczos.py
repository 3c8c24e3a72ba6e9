"""Lanczos tridiagonalisation from random probes."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature.krylov import basis, checkpoint, recurrence
from hessflat.curvature.krylov.basis import Storage
from hessflat.curvature.krylov.recurrence import Reorthogonalise
from hessflat.curvature.numerics import precision, probes
from hessflat.curvature.numerics.probes import Probe
from hessflat.curvature.operators import operator
from hessflat.curvature.operators.batches import Devices
from hessflat.curvature.operators.operator import Operator
from hessflat.utils import loops, memory, progress
from hessflat.utils.errors import InputError, nearest

# Between two looks at a run: its progress is told, and it ends early if the Krylov space is exhausted.
_STEPS_BETWEEN_LOOKS = 12
_SECONDS_BETWEEN_SAVES = 30.0


class Tridiagonals(NamedTuple):
    """T = tridiag(betas, alphas, betas) for each of k probes with m steps; the leading `num_valid` rows count."""

    alphas: np.ndarray  # [k, m], zero from num_valid on
    betas: np.ndarray  # [k, m]; betas[:, i] couples steps i and i+1, the last valid one measures what is left out
    num_valid: np.ndarray  # [k] steps done before the Krylov space was exhausted
    orthogonality: np.ndarray  # [k] max |Q Qᵀ − I|; nan where the basis was not kept
    basis: Any  # [k, m, P] on request, or None
    num_products: int
    seconds: float  # wall time, compilation included
    precision: str  # of matrix products

    @property
    def status(self) -> tuple[str, ...]:
        """For each probe "completed", or "exhausted" where the Krylov space ended the recurrence early."""
        return tuple("completed" if n == self.alphas.shape[1] else "exhausted" for n in self.num_valid)


def lanczos(
    op: Operator,
    key: Array,
    num_steps: int = 100,
    num_probes: int = 1,
    reorthogonalise: Reorthogonalise = "full",
    probe: Probe = "rademacher",
    return_basis: bool = False,
    storage: Storage = "device",
    folder: str | Path | None = None,
    loop: loops.Loop | None = None,
    together: bool | None = None,
    show_progress: bool = True,
) -> Tridiagonals:
    """Lanczos from `num_probes` random unit vectors, one product per step.

    Departures from the textbook: Gram-Schmidt is done twice, β is measured after it, and the recurrence ends, cleanly,
    when β is within rounding of the size of T (relative, so the scale of the operator does not matter).

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_steps: m, at most; clipped to P, which no Krylov space exceeds.
        num_probes: k.
        reorthogonalise: "full" is what eigenvalues and the mass at zero need. "selective" does it where estimated
            overlaps exceed √ε (partial re-orthogonalisation, Simon 1984): T to working precision, for fewer passes
            over the basis. "none" keeps three vectors and repeats eigenvalues that have converged (the density as a
            whole survives that).
        probe: "rademacher" or "gaussian".
        return_basis: also return the Lanczos vectors [k, m, P].
        storage: where the basis of m P numbers lies: "device"; "half", there in float16, where rounding to about
            5e-4 / √P an entry takes the place of that of float32 (`orthogonality` tells the loss); "host", in the
            host's memory, where it is also worked with.
        folder: where to store the recurrence, every 30 seconds and at the end of each probe. The same call after a
            kill goes on from there, to the same bits.
        loop: "scan" compiles the recurrence, "python" drives it from Python; None chooses.
        together: probes side by side in every product: memory times k. None does so on an accelerator, where it fits;
            on a CPU it is no faster.
        show_progress: a bar with the time left, on a terminal.

    Raises:
        InputError: counts below 1, unknown options, a basis that does not fit into memory, a folder of another
            measurement, or an operator that gives values that are not finite.
    """
    began = time.perf_counter()
    _require_options(key, num_steps, num_probes, reorthogonalise, probe, storage)
    how = _How(
        num_steps=min(num_steps, op.size),
        reorthogonalise=reorthogonalise,
        keeps=reorthogonalise != "none" or return_basis,
        storage=storage,
        loop=operator.loop_for(op, loop),
        devices=operator.devices_of(op),
        return_basis=return_basis,
    )
    if how.keeps:
        require_basis(op, how.num_steps, storage)
    if together is None:
        together = folder is None and _fits_together(op, num_probes, how)
    together = together and num_probes > 1 and how.loop == "scan" and storage != "host" and how.devices is None
    owner = ""
    if folder is not None:
        owner = checkpoint.identity(op, *how[:4], probe, str(op.dtype), jax.random.key_data(key).tolist())
    if how.num_steps * num_probes >= _STEPS_BETWEEN_LOOKS:
        op = operator.linearize(op)
    total = how.num_steps * num_probes
    with precision.chosen(), progress.counting(total, "Lanczos steps", show_progress) as advance:
        vectors = (probes.draw(key, op.size, op.dtype, probe, k) for k in range(num_probes))
        if together:
            result = _side_by_side(op, jnp.stack(list(vectors)), how, advance)
        else:
            each = []
            for k, vector in enumerate(vectors):
                place = None if folder is None else checkpoint.Place(Path(folder), k, owner)
                each.append(_in_turn(op, vector, how, place, advance))
            result = jax.tree.map(lambda *x: np.stack(x) if isinstance(x[0], np.ndarray) else jnp.stack(x), *each)
    alphas, betas, num_valid, loss = (np.asarray(x) for x in result[:4])
    operator.require_finite(alphas, betas)
    seconds = time.perf_counter() - began
    return Tridiagonals(alphas, betas, num_valid, loss, result[4], int(num_valid.sum()), seconds, precision.name())


class _How(NamedTuple):
    """The options of one recurrence, checked."""

    num_steps: int
    reorthogonalise: Reorthogonalise
    keeps: bool
    storage: Storage
    loop: loops.Loop
    devices: Devices | None
    return_basis: bool


def _in_turn(op: Operator, vector: Array, how: _How, place: checkpoint.Place | None, advance: Callable) -> tuple:
    """One probe [P]; α, β, the number of valid steps, the loss of orthogonality, and the basis or None."""
    in_host = how.keeps and how.storage == "host"
    state = recurrence.begin(vector, how.num_steps, how.keeps and not in_host, how.storage, how.devices)
    rows = np.zeros((how.num_steps, op.size), op.dtype) if in_host else None
    done, num_saved, last_saved = 0, 0, time.monotonic()
    if place is not None:
        state, done = checkpoint.load(place, state, rows)
        num_saved = done
    advance(done)
    length = block_length(how.num_steps)
    run = recurrence.run_compiled if how.loop == "scan" else recurrence.run
    while done < how.num_steps:
        if rows is not None:
            state = recurrence.run_on_host(op, state, rows, done, length, how.loop)
        else:
            state = run(op, state, done, length, how.loop, how.reorthogonalise, False, how.devices)
        ended = int(state.num_valid) < done + length
        advance(how.num_steps - done if ended else length)
        done = how.num_steps if ended else done + length
        if place is not None and (done == how.num_steps or time.monotonic() - last_saved > _SECONDS_BETWEEN_SAVES):
            checkpoint.save(place, state, rows, done, num_saved)
            num_saved, last_saved = done, time.monotonic()
    if rows is not None:
        vectors: Any = rows
        loss = np.abs(rows @ rows.T - np.diag(np.arange(len(rows)) < state.num_valid)).max()
    else:
        loss = basis.orthogonality_loss(state.slabs, state.num_valid, how.devices) if how.keeps else np.nan
        vectors = basis.rows_of(state.slabs, op.dtype)[: how.num_steps] if how.return_basis else None
    return *map(np.asarray, (state.alphas, state.betas, state.num_valid, loss)), vectors if how.return_basis else None


def _side_by_side(op: Operator, vectors: Array, how: _How, advance: Callable) -> tuple:
    """Several probes [k, P] in one recurrence; what `_in_turn` gives, with a leading axis."""
    state = jax.vmap(lambda vector: recurrence.begin(vector, how.num_steps, how.keeps, how.storage))(vectors)
    length = block_length(how.num_steps)
    for first in range(0, how.num_steps, length):
        state = recurrence.run_compiled(op, state, first, length, "scan", how.reorthogonalise, True)
        advance(length * len(vectors))
    loss = np.full(len(vectors), np.nan)
    if how.keeps:
        loss = basis.orthogonality_loss(state.slabs, state.num_valid, None)
    rows = jax.vmap(lambda slabs: basis.rows_of(slabs, op.dtype))(state.slabs) if how.return_basis else None
    return state.alphas, state.betas, state.num_valid, loss, rows


def block_length(num_steps: int) -> int:
    """Steps of one compiled scan: about a dozen, and a divisor of `num_steps` where there is one."""
    counts = range(math.ceil(num_steps / _STEPS_BETWEEN_LOOKS), num_steps // 2 + 1)
    return next((num_steps // count for count in counts if num_steps % count == 0), num_steps)


def require_basis(op: Operator, num_rows: int, storage: Storage) -> None:
    """Refuse a basis that does not fit, and name what would."""
    needed = basis.num_bytes(num_rows, op.size, op.dtype, storage)
    instead = 'take fewer steps, storage="half", or reorthogonalise="none"'
    if storage == "half":
        instead = 'take fewer steps, or reorthogonalise="none"'
    elif jax.default_backend() != "cpu" and storage == "device":
        instead = 'take storage="host" or "half", fewer steps, or reorthogonalise="none"'
    memory.require(needed, f"a basis of {num_rows} vectors of {op.size:,} numbers", instead)


def _fits_together(op: Operator, num_probes: int, how: _How) -> bool:
    if jax.default_backend() == "cpu":
        return False
    rows = num_probes * (how.num_steps if how.keeps else 1)
    return basis.num_bytes(rows, op.size, op.dtype, how.storage) < memory.available() // 4


def _require_options(
    key: Array, num_steps: int, num_probes: int, reorthogonalise: str, probe: str, storage: str
) -> None:
    probes.require_key(key)
    probes.require_count("num_steps", num_steps)
    probes.require_count("num_probes", num_probes)
    probes.require_probe(probe)
    for name, value, known in (
        ("reorthogonalise", reorthogonalise, get_args(Reorthogonalise)),
        ("storage", storage, get_args(Storage)),
    ):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}; {nearest(value, known)}")
    if storage == "host" and reorthogonalise == "selective":
        raise InputError('storage="host" takes reorthogonalise="full"; selective is for a basis on the device')
