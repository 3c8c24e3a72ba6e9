"""Lanczos tridiagonalisation from random probes: the public function, one probe with checkpoints, several side by side.

The recurrence is in `krylov.recurrence`, its stored basis in `krylov.basis`.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import host, numerics, vectors
from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov.basis import Storage
from hessflat.curvature.krylov.checkpoint import Checkpoint, fixed_product, in_folder, measurement_id
from hessflat.curvature.krylov.recurrence import (
    Reorthogonalise,
    State,
    host_steps,
    initial_state,
    python_steps,
    scan_steps,
)
from hessflat.curvature.numerics import Probe
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import Operator, layout_of, require_finite, require_operator
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.records import record
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils import hardware, processes
from hessflat.utils.convolution import Loop
from hessflat.utils.errors import InputError, shown

# Steps between two checks, which report progress and end the run if the Krylov space is exhausted.
_STEPS_BETWEEN_CHECKS = 12
# The same where a function says when to end: every step more is a product too many.
_STEPS_BETWEEN_QUESTIONS = 4
_SECONDS_BETWEEN_SAVES = 30.0


Until = Callable[[np.ndarray, np.ndarray], bool]


@record(
    lambda self: f"{len(self.alphas)} tridiagonal matrices of {self.alphas.shape[1]} Lanczos steps",
    {"steps": "num_valid", "loss of orthogonality": "orthogonality"},
)
class Tridiagonals(NamedTuple):
    """T = tridiag(betas, alphas, betas) for each of k probes with m steps; the leading `num_valid` rows are valid."""

    alphas: np.ndarray  # [k, m], zero from num_valid on
    betas: np.ndarray  # [k, m]; betas[:, i] couples steps i and i+1, the last valid one is the norm of the remainder
    num_valid: np.ndarray  # [k] steps done before the Krylov space was exhausted
    orthogonality: np.ndarray  # [k] max |Q Qᵀ − I|; nan where the basis was not stored
    basis: Any  # on request [k, m, P], or, where vectors are spread over devices, a tree of [k, m, ...]; else None
    num_products: int
    seconds: float  # wall time, compilation included
    precision: str  # of matrix products

    @property
    def status(self) -> tuple[str, ...]:
        """For each probe "completed", or "exhausted" where the Krylov space was exhausted before m steps."""
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
    loop: Loop | None = None,
    together: bool | None = None,
    show_progress: bool = True,
    on_steps: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    until: Until | None = None,
) -> Tridiagonals:
    """Lanczos tridiagonalisation from `num_probes` random unit vectors, one product a step.

    Departures from the textbook (Golub & Van Loan 2013, section 10.1): Gram-Schmidt is applied twice, and β is computed
    after it. The recurrence ends when β is within rounding of the size of T, a criterion that is independent of the
    scale of the operator.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_steps: m, the maximum number of steps; at most P are taken, the largest dimension of a Krylov space.
        num_probes: k.
        reorthogonalise: "full" is required for eigenvalues and the mass at zero. "selective" re-orthogonalises where
            estimated overlaps exceed √ε (partial re-orthogonalisation, Simon 1984), which gives T to working precision
            with fewer passes over the basis. "none" stores three vectors; converged eigenvalues then repeat, while the
            density stays accurate.
        probe: "rademacher" or "gaussian".
        return_basis: also return the Lanczos vectors [k, m, P].
        storage: the memory of the basis of m P numbers. "device" stores it in the operator's type, "half" in float16,
            with a rounding of about 5e-4 / √P an entry (`orthogonality` measures the loss). "host" stores it in the
            host's memory and re-orthogonalises there.
        folder: where to store the recurrence, every 30 seconds and at the end of each probe. The same call continues an
            interrupted one to the same bits.
        loop: "scan" compiles the recurrence, "python" runs it from Python; None chooses.
        together: run all probes side by side in every product, with k times the memory. None does so on an accelerator
            where memory permits; on a CPU it is no faster.
        show_progress: show a progress bar on a terminal.
        on_steps: called with the number of further steps, instead of the bar.
        checkpoint: functions that store and restore the recurrence, instead of `folder`.
        until: `until(alphas, betas)` of the j steps so far of the first probe, called every four steps or so. When it
            is true, every probe ends after as many steps. Probes then run one after the other.

    Raises:
        InputError: counts below 1, unknown options, a basis that does not fit into memory, a folder of another
            measurement, or products that are not finite.
    """
    began = time.perf_counter()
    require_operator(op)
    num_steps, num_probes = _counts(key, num_steps, num_probes, reorthogonalise, probe, storage)
    return_basis = numerics.require_flag("return_basis", return_basis)
    op = op.as_it_is_now()
    options = _Options(
        num_steps=min(num_steps, op.size),
        reorthogonalise=reorthogonalise,
        stores_basis=reorthogonalise != "none" or return_basis,
        storage=storage,
        loop=loop_for(op, loop),
        layout=layout_of(op),
        return_basis=return_basis,
    )
    if together is not None:
        together = numerics.require_flag("together", together)
    if until is not None:
        numerics.require_function("until", until)
        together = False
    layout = options.layout
    if options.stores_basis:
        rows = options.num_steps * (num_probes if together or return_basis else 1)
        basis.require_memory(layout, rows, storage, hardware.platform(op))
    if folder is not None:
        if checkpoint is not None:
            raise InputError("a recurrence is stored in one place: give folder or checkpoint, not both")
        checkpoint = _checkpoint_in(folder, op, key, probe, options)
    if together is None:
        together = checkpoint is None and _fits_together(op, num_probes, options)
    together = together and num_probes > 1 and options.loop == "scan" and storage != "host" and layout.mesh is None
    total = options.num_steps * num_probes
    if total >= _STEPS_BETWEEN_CHECKS:
        op = linearize(op)
    with numerics.matmul_precision(), step_callback(total, "Lanczos steps", show_progress, on_steps) as on_steps:
        drawn = (vectors.draw(layout, key, probe, k) for k in range(num_probes))
        if together:
            starts = jax.tree.map(lambda *x: jnp.stack(x), *drawn)
            result = _side_by_side(op, starts, num_probes, options, on_steps)
        else:
            # Of all probes alike, so that one compiled block of steps serves them.
            most = _STEPS_BETWEEN_CHECKS if until is None else _STEPS_BETWEEN_QUESTIONS
            length = block_length(options.num_steps, most)
            each: list[tuple[Any, ...]] = []
            for k, vector in enumerate(drawn):
                ends = until if k == 0 else _after(len(each[0][0]))
                each.append(_one_probe(op, k, vector, options, length, on_steps, checkpoint, ends))
            result = jax.tree.map(lambda *x: np.stack(x) if isinstance(x[0], np.ndarray) else jnp.stack(x), *each)
    alphas, betas, num_valid, loss = (np.asarray(x) for x in result[:4])
    require_finite(alphas, betas)
    seconds = time.perf_counter() - began
    return Tridiagonals(
        alphas, betas, num_valid, loss, result[4], int(num_valid.sum()), seconds, numerics.precision_name(op)
    )


class _Options(NamedTuple):
    """The options of one recurrence, checked."""

    num_steps: int
    reorthogonalise: Reorthogonalise
    stores_basis: bool
    storage: Storage
    loop: Loop
    layout: Layout
    return_basis: bool


def _checkpoint_in(folder: str | Path, op: Operator, key: Array, probe: Probe, options: _Options) -> Checkpoint:
    """What stores a recurrence in `folder`, and restores it where the same call was interrupted."""
    if not isinstance(folder, str | Path) or "\0" in str(folder):
        raise InputError(f"folder must be the path of a folder, got {shown(folder)}")
    settings = (*options[:4], probe, str(op.dtype), jax.random.key_data(key).tolist())
    layout, spans = options.layout, processes.spans(op)
    return in_folder(Path(folder), measurement_id(op, *settings), fixed_product(op, layout), layout, spans)


def _one_probe(
    op: Operator,
    probe: int,
    vector: Vector,
    options: _Options,
    length: int,
    on_steps: Callable[[int], None],
    checkpoint: Checkpoint | None,
    until: Until | None,
) -> tuple[Any, ...]:
    """α, β, the number of valid steps, the loss of orthogonality, and the basis or None, from one vector [P]."""
    num_steps, storage, layout = options.num_steps, options.storage, options.layout
    in_host = options.stores_basis and storage == "host"
    state = initial_state(layout, vector, num_steps, options.stores_basis and not in_host, storage)
    rows = np.zeros((num_steps, len(host.part_of(vector))), op.dtype) if in_host else None
    done, num_saved, last_saved = 0, 0, time.monotonic()
    if checkpoint is not None:
        state, done = checkpoint.load(probe, state, rows)
        num_saved = done
    on_steps(done)
    run = scan_steps if options.loop == "scan" else python_steps
    while done < num_steps and not _ended(until, state, done):
        if rows is not None:
            state = host_steps(op, layout, state, rows, done, length, options.loop)
        else:
            state = run(op, layout, state, done, length, options.reorthogonalise)
        ended = int(state.num_valid) < done + length
        on_steps(num_steps - done if ended else length)
        done = num_steps if ended else done + length
        due = done == num_steps or time.monotonic() - last_saved > _SECONDS_BETWEEN_SAVES
        if checkpoint is not None and processes.agreed(due, processes.spans(op)):
            checkpoint.save(probe, state, rows, done, num_saved)
            num_saved, last_saved = done, time.monotonic()
    if done < num_steps:
        on_steps(num_steps - done)
    loss: Any = np.nan
    kept: Any = None if rows is None else rows[:done]
    if rows is not None:
        products = host.sum_over_processes(rows @ rows.T, processes.spans(state))
        loss = np.abs(products - np.diag(np.arange(len(rows)) < state.num_valid)).max()
        if options.return_basis and layout.mesh is not None:
            each = [host.from_part(layout, row) for row in rows[:done]]
            kept = vectors.rows_to_tree(layout, jax.tree.map(lambda *x: jnp.stack(x), *each))
    elif options.stores_basis:
        loss = basis.orthogonality_loss(layout, state.blocks, state.num_valid)
        kept = _returned(layout, state, done) if options.return_basis else None
    numbers = map(np.asarray, (state.alphas[:done], state.betas[:done], state.num_valid, loss))
    return *numbers, kept if options.return_basis else None


def _ended(until: Until | None, state: State, done: int) -> bool:
    """Whether a recurrence ends after `done` steps."""
    if until is None or not done:
        return False
    alphas, betas = (np.asarray(x[:done], np.float64) for x in (state.alphas, state.betas))
    require_finite(alphas, betas)
    return bool(until(alphas, betas))


def _after(num_steps: int) -> Until:
    return lambda alphas, betas: len(alphas) >= num_steps


def _returned(layout: Layout, state: State, num_steps: int) -> Any:
    """The basis as `Tridiagonals` has it."""
    rows = basis.all_rows(layout, state.blocks)
    if layout.mesh is None and isinstance(rows, Array):
        return rows[:num_steps]
    return vectors.rows_to_tree(layout, jax.tree.map(lambda x: x[:num_steps], rows))


def _side_by_side(
    op: Operator, starts: Vector, count: int, options: _Options, on_steps: Callable[[int], None]
) -> tuple[Any, ...]:
    """The results of `_one_probe` with a leading axis, for `count` probes [k, P] in one recurrence."""
    num_steps, stores_basis, layout = options.num_steps, options.stores_basis, options.layout
    state = jax.vmap(lambda vector: initial_state(layout, vector, num_steps, stores_basis, options.storage))(starts)
    length = block_length(num_steps)
    for first in range(0, num_steps, length):
        state = scan_steps(op, layout, state, first, length, options.reorthogonalise, together=True)
        on_steps(length * count)
    loss = np.full(count, np.nan)
    if stores_basis:
        loss = basis.orthogonality_loss(layout, state.blocks, state.num_valid)
    rows = jax.vmap(lambda blocks: basis.all_rows(layout, blocks))(state.blocks) if options.return_basis else None
    return state.alphas, state.betas, state.num_valid, loss, rows


def step_callback(
    total: int, doing: str, show_progress: bool, on_steps: Callable[[int], None] | None
) -> AbstractContextManager[Callable[[int], None]]:
    """A context of `on_steps`; without it, of a function that moves a progress bar, if there is a terminal.

    Raises:
        InputError: `show_progress` that is not True or False, `on_steps` that is no function.
    """
    show_progress = numerics.require_flag("show_progress", show_progress)
    if on_steps is not None:
        numerics.require_function("on_steps", on_steps)
    if on_steps is None and show_progress and sys.stderr.isatty():
        from hessflat.utils import progress  # imported only where a bar is shown

        return progress.counting(total, doing)
    return contextlib.nullcontext(on_steps or (lambda steps: None))


def block_length(num_steps: int, most: int = _STEPS_BETWEEN_CHECKS) -> int:
    """The number of steps of one compiled scan: `most` or a few less, a divisor of `num_steps` where there is one."""
    counts = range(math.ceil(num_steps / most), num_steps // 2 + 1)
    return next((num_steps // count for count in counts if num_steps % count == 0), num_steps)


def _fits_together(op: Operator, num_probes: int, options: _Options) -> bool:
    if hardware.platform(op) == "cpu":
        return False
    rows = num_probes * (options.num_steps if options.stores_basis else 1)
    return basis.bytes_needed(options.layout, rows, options.storage) < processes.agreed(
        hardware.free_bytes() // 4, processes.spans(op)
    )


def _counts(
    key: Array, num_steps: int, num_probes: int, reorthogonalise: str, probe: str, storage: str
) -> tuple[int, int]:
    """`num_steps` and `num_probes`, once all options are known to be right."""
    numerics.require_key(key)
    num_steps = numerics.require_count("num_steps", num_steps)
    num_probes = numerics.require_draws("num_probes", num_probes)
    numerics.require_probe(probe)
    for name, value, known in (
        ("reorthogonalise", reorthogonalise, get_args(Reorthogonalise)),
        ("storage", storage, get_args(Storage)),
    ):
        numerics.require_option(name, value, known)
    if storage == "host" and reorthogonalise == "selective":
        raise InputError('storage="host" takes reorthogonalise="full"; selective is for a basis on the device')
    return num_steps, num_probes
