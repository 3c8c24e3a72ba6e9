"""Checkpoints of a Lanczos recurrence, from which an interrupted measurement continues to the same bits.

A vector is stored as the leaves of its tree one after the other, wherever it lay: a measurement continues on another
number of devices. Where several processes work on the operator, the first writes and all read.
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
from jax import Array

from hessflat.curvature import host, numerics, vectors
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.vectors import Layout
from hessflat.utils import compat, files, hardware, processes
from hessflat.utils.errors import InputError

_SAME_PRODUCT = 1e-4

# The fields of a state that are vectors.
_VECTORS = ("vector", "previous")


class Checkpoint(NamedTuple):
    """Functions that store the recurrence of each probe and restore it; `in_folder` makes them for files.

    A state is `krylov.recurrence.State`: a tuple of arrays whose `blocks` hold the basis. With `storage="host"` the
    basis is `rows` [m, n] instead, as `host.part_of` gives them, and `blocks` is empty.
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
    layout: Layout
    together: bool  # whether several processes work on the operator


def in_folder(folder: Path, identity: str, product: np.ndarray, layout: Layout, together: bool = False) -> Checkpoint:
    """A checkpoint of two files for each probe, valid for one measurement.

    Its `load` raises an InputError where the files are damaged or belong to another measurement.

    Args:
        folder: where the files are.
        identity: what `measurement_id` gives.
        product: [P], what `fixed_product` gives.
        layout: where vectors lie.
        together: whether several processes work on the operator; see `processes.spans`.
    """

    def probe_files(probe: int) -> _Files:
        state, rows = (folder / f"probe-{probe:03d}.{kind}" for kind in ("npz", "rows"))
        return _Files(state, rows, identity, product, layout, together)

    return Checkpoint(
        load=lambda probe, empty, rows: _load(probe_files(probe), empty, rows),
        save=lambda probe, state, rows, step, num_saved: _save(probe_files(probe), state, rows, step, num_saved),
    )


def fixed_product(op: Operator, layout: Layout) -> np.ndarray:
    """The product with a random vector that is always the same, [P]: what no hash sees, such as a new JAX, it sees."""
    vector = vectors.to_tree(layout, vectors.draw(layout, jax.random.key(0), "gaussian"))
    return host.flat(op(vector))


def measurement_id(op: Operator, *settings: Any) -> str:
    """A hash of the operator (functions with all that they read from outside, arrays) and of a measurement's settings.

    Raises:
        InputError: functions that read an object which nothing identifies in another process.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        functions = [
            compat.fingerprint((term.product, term.functions, *(s.function for s in term.scalings)), by_content=True)[0]
            for term in op.terms
        ]
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
        fields = {name: jnp.asarray(arrays[name]) for name in empty._fields if name not in ("blocks", *_VECTORS)}
        fields |= {name: host.from_flat(stored.layout, arrays[name]) for name in _VECTORS}
    except Exception as error:
        raise InputError(f"{stored.state} is damaged ({error}); delete it to begin again") from error
    # Another processor rounds otherwise; another function is further off, or the hash tells.
    same = np.linalg.norm(product - stored.product) <= _SAME_PRODUCT * np.linalg.norm(product)
    if owner != stored.identity or not same:
        raise InputError(
            f"{stored.state} belongs to another operator or other settings; give another folder, or delete it"
        )
    layout = stored.layout
    if rows is not None:
        for number in range(step):
            rows[number] = host.part_of(host.from_flat(layout, _read_row(stored, number, rows.dtype)))
    blocks, start = [], 0
    for block in empty.blocks:
        first, *_ = jax.tree.leaves(block)
        for number in range(start, min(step, start + len(first))):
            row = host.from_flat(layout, _read_row(stored, number, first.dtype))
            block = _with_row(block, number - start, row)
        blocks.append(block)
        start += len(first)
    return empty._replace(blocks=tuple(blocks), **fields), step


@partial(jax.jit, donate_argnums=0)
def _with_row(block: Any, number: Array, row: Any) -> Any:
    return jax.tree.map(lambda rows, x: rows.at[number].set(x), block, row)


def _save(stored: _Files, state: Any, rows: np.ndarray | None, step: int, num_saved: int) -> None:
    write = processes.in_writer if stored.together else lambda function: function()
    start = 0
    for block in state.blocks if rows is None else (rows,):
        first, *_ = jax.tree.leaves(block)
        for number in range(max(num_saved, start), min(step, start + len(first))):
            write(partial(_write_row, stored.rows, number, _row_of(stored.layout, block, number - start)))
        start += len(first)
    if step > num_saved and start:
        write(partial(_on_disk, stored.rows))
    arrays = {name: np.asarray(value) for name, value in state._asdict().items() if name not in ("blocks", *_VECTORS)}
    arrays |= {name: host.to_flat(stored.layout, getattr(state, name)) for name in _VECTORS}
    whose = {"identity": np.array(stored.identity), "product": stored.product}
    write(partial(files.write_arrays, stored.state, arrays | whose | {"step": np.array(step)}))


def _write_row(path: Path, number: int, vector: np.ndarray) -> None:
    """Write a vector [P] to the file as row `number`."""
    with files.full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(number * vector.nbytes)
            file.write(vector.tobytes())


def _on_disk(path: Path) -> None:
    with files.full_disk_named(path), open(path, "r+b") as file:
        os.fsync(file.fileno())


def _row_of(layout: Layout, block: Any, number: int) -> np.ndarray:
    """A vector [P] of a block in device memory, or of rows in the host's."""
    if isinstance(block, np.ndarray):
        return host.to_flat(layout, host.from_part(layout, block[number]))
    return host.to_flat(layout, jax.tree.map(lambda rows: rows[number], block))


def _read_row(stored: _Files, number: int, dtype: Any) -> np.ndarray:
    size, itemsize = stored.layout.size, np.dtype(dtype).itemsize
    try:
        return np.fromfile(stored.rows, dtype, size, offset=number * size * itemsize).reshape(size)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{stored.rows} is missing or short; delete it and {stored.state.name} to begin again"
        ) from error
