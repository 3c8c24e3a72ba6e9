"""Checkpoints of a Lanczos recurrence, from which an interrupted measurement continues to the same bits.

Where several processes work on the operator, the first writes and all read.
"""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.curvature import numerics
from hessflat.curvature.operators.operator import Operator
from hessflat.utils import compat, files, hardware, processes
from hessflat.utils.errors import InputError

_SAME_PRODUCT = 1e-4


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
    """The two files of one probe, and what says that they belong to a measurement."""

    state: Path  # everything but the basis; written after the rows, so that it never counts rows that do not exist
    rows: Path  # the basis, one vector after the other
    identity: str
    product: np.ndarray  # [P] `fixed_product`
    together: bool  # whether several processes work on the operator


def in_folder(folder: Path, identity: str, product: np.ndarray, together: bool = False) -> Checkpoint:
    """A checkpoint of two files for each probe, valid for one measurement.

    Its `load` raises an InputError where the files are damaged or belong to another measurement.

    Args:
        folder: where the files are.
        identity: what `measurement_id` gives.
        product: [P], what `fixed_product` gives.
        together: whether several processes work on the operator; see `processes.spans`.
    """

    def probe_files(probe: int) -> _Files:
        state, rows = (folder / f"probe-{probe:03d}.{kind}" for kind in ("npz", "rows"))
        return _Files(state, rows, identity, product, together)

    return Checkpoint(
        load=lambda probe, empty, rows: _load(probe_files(probe), empty, rows),
        save=lambda probe, state, rows, step, num_saved: _save(probe_files(probe), state, rows, step, num_saved),
    )


def fixed_product(op: Operator) -> np.ndarray:
    """The product with a random vector that is always the same, [P]: what no hash sees, such as a new JAX, it sees."""
    return np.asarray(op(numerics.draw_probe(jax.random.key(0), op.size, op.dtype, "gaussian")))


def measurement_id(op: Operator, *settings: Any) -> str:
    """A hash of the operator (functions with all that they read from outside, arrays) and of a measurement's settings.

    Raises:
        InputError: functions that read an object which nothing identifies in another process.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        functions = [compat.fingerprint((term.product, term.functions), by_content=True)[0] for term in op.terms]
    except TypeError as error:
        raise InputError(
            f"folder= cannot be used: a function reads an object of type {error} from outside, which nothing "
            "identifies in another process; pass it as state, or as an array"
        ) from error
    cuts = [term.batches.identity for term in op.terms]
    known = (jax.tree.structure(op.params), functions, cuts, numerics.precision_name(op), settings)
    digest.update(repr(known).encode())
    for leaf in jax.tree.leaves(op):
        array = np.ascontiguousarray(hardware.on_host(leaf))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _load(stored: _Files, empty: Any, rows: np.ndarray | None) -> tuple[Any, int]:
    if not processes.agreed(stored.state.exists(), stored.together):
        return empty, 0
    with processes.failing_together(stored.together):
        return _read(stored, empty, rows)


def _read(stored: _Files, empty: Any, rows: np.ndarray | None) -> tuple[Any, int]:
    try:
        with np.load(stored.state) as file:
            arrays = dict(file)
        owner, step, product = str(arrays.pop("identity")), int(arrays.pop("step")), arrays.pop("product")
        fields = {name: jnp.asarray(arrays[name]) for name in empty._fields if name != "blocks"}
    except Exception as error:
        raise InputError(f"{stored.state} is damaged ({error}); delete it to begin again") from error
    # Another processor rounds otherwise; another function is further off, or the hash tells.
    same = np.linalg.norm(product - stored.product) <= _SAME_PRODUCT * np.linalg.norm(product)
    if owner != stored.identity or not same:
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
    write = processes.in_writer if stored.together else lambda function: function()
    start = 0
    for block in state.blocks if rows is None else (rows,):
        first, last = max(num_saved - start, 0), min(step - start, len(block))
        if first < last:
            vectors = hardware.on_host(block[first:last])
            write(partial(_write_rows, stored.rows, start + first, vectors))
        start += len(block)
    arrays = {name: np.asarray(value) for name, value in state._asdict().items() if name != "blocks"}
    whose = {"identity": np.array(stored.identity), "product": stored.product}
    write(partial(files.write_arrays, stored.state, arrays | whose | {"step": np.array(step)}))


def _write_rows(path: Path, position: int, vectors: np.ndarray) -> None:
    """Write vectors [n, P] to the file at row `position`."""
    with files.full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(position * vectors.shape[1] * vectors.dtype.itemsize)
            file.write(vectors.tobytes())
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
