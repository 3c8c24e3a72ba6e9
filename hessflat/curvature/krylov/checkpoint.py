"""Checkpoints of a Lanczos recurrence, from which an interrupted measurement continues to the same bits."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.curvature.operators.operator import Operator
from hessflat.utils import files
from hessflat.utils.errors import InputError


class Checkpoint(NamedTuple):
    """Functions that store the recurrence of each probe and restore it; `in_folder` makes them for files.

    A state is `krylov.recurrence.State`: a tuple of arrays whose `blocks` hold the basis. With `storage="host"` the
    basis is `rows` [m, P] instead, and `blocks` is empty.
    """

    # load(probe, empty state, rows or None) -> the stored state and the number of its next step; the empty state and 0
    # where nothing is stored. It fills `rows`.
    load: Callable[[int, Any, np.ndarray | None], tuple[Any, int]]
    # save(probe, state, rows or None, step, num_saved): the state before step `step`, of whose basis the first
    # `num_saved` vectors have been saved before.
    save: Callable[[int, Any, np.ndarray | None, int, int], None]


class _Files(NamedTuple):
    """The two files of one probe, and the identity of their measurement."""

    state: Path  # everything but the basis; written after the rows, so that it never counts rows that do not exist
    rows: Path  # the basis, one vector after the other
    identity: str


def in_folder(folder: Path, identity: str) -> Checkpoint:
    """A checkpoint of two files for each probe, valid for the measurement with that `identity`.

    Its `load` raises an InputError where the files are damaged or belong to another measurement.
    """

    def probe_files(probe: int) -> _Files:
        return _Files(folder / f"probe-{probe:03d}.npz", folder / f"probe-{probe:03d}.rows", identity)

    return Checkpoint(
        load=lambda probe, empty, rows: _load(probe_files(probe), empty, rows),
        save=lambda probe, state, rows, step, num_saved: _save(probe_files(probe), state, rows, step, num_saved),
    )


def measurement_id(op: Operator, *settings: Any) -> str:
    """A hash of the operator (functions by name, arrays by content) and of the settings of a measurement."""
    digest = hashlib.blake2b(digest_size=16)
    names = [_name(function) for term in op.terms for function in (term.product, *term.functions)]
    cuts = [(term.batches.batch_size, term.batches.statistics_batch) for term in op.terms]
    digest.update(repr((jax.tree.structure(op.params), names, cuts, settings)).encode())
    for leaf in jax.tree.leaves(op):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _load(stored: _Files, empty: Any, rows: np.ndarray | None) -> tuple[Any, int]:
    if not stored.state.exists():
        return empty, 0
    try:
        with np.load(stored.state) as file:
            arrays = dict(file)
        owner, step = str(arrays.pop("identity")), int(arrays.pop("step"))
        fields = {name: jnp.asarray(arrays[name]) for name in empty._fields if name != "blocks"}
    except Exception as error:
        raise InputError(f"{stored.state} is damaged ({error}); delete it to begin again") from error
    if owner != stored.identity:
        raise InputError(
            f"{stored.state} belongs to another operator or other settings; give another folder, or delete it"
        )
    if rows is not None:
        rows[:step] = _read_rows(stored, 0, step, rows)
    blocks, start = [], 0
    for block in empty.blocks:
        vectors = _read_rows(stored, start, min(max(step - start, 0), len(block)), block)
        blocks.append(jax.device_put(block.at[: len(vectors)].set(vectors), block.sharding))
        start += len(block)
    return empty._replace(blocks=tuple(blocks), **fields), step


def _save(stored: _Files, state: Any, rows: np.ndarray | None, step: int, num_saved: int) -> None:
    with files.full_disk_named(stored.rows):
        stored.rows.parent.mkdir(parents=True, exist_ok=True)
        _append_rows(stored, state.blocks if rows is None else (rows,), step, num_saved)
    arrays = {name: np.asarray(value) for name, value in state._asdict().items() if name != "blocks"}
    files.write_arrays(stored.state, {**arrays, "identity": np.array(stored.identity), "step": np.array(step)})


def _append_rows(stored: _Files, blocks: tuple[Any, ...], step: int, num_saved: int) -> None:
    start = 0
    with open(stored.rows, "r+b" if stored.rows.exists() else "w+b") as file:
        for block in blocks:
            first, last = max(num_saved - start, 0), min(step - start, len(block))
            if first < last:
                file.seek((start + first) * block.shape[1] * block.dtype.itemsize)
                file.write(np.asarray(block[first:last]).tobytes())
            start += len(block)
        file.flush()
        os.fsync(file.fileno())


def _read_rows(stored: _Files, start: int, count: int, like: Any) -> np.ndarray:
    length, offset = like.shape[1], start * like.shape[1] * like.dtype.itemsize
    try:
        return np.fromfile(stored.rows, like.dtype, count * length, offset=offset).reshape(count, length)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{stored.rows} is missing or short; delete it and {stored.state.name} to begin again"
        ) from error


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
