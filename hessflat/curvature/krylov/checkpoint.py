"""A Lanczos recurrence on disk: what a killed measurement continues from, to the same bits."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.curvature.krylov.recurrence import State
from hessflat.curvature.operators.operator import Operator
from hessflat.utils import files
from hessflat.utils.errors import InputError


class Place(NamedTuple):
    """Where the recurrence of one probe is stored, and what it must belong to."""

    folder: Path
    probe: int
    identity: str

    @property
    def state(self) -> Path:
        """Everything but the basis; written after the rows, so that what it counts is there."""
        return self.folder / f"probe-{self.probe:03d}.npz"

    @property
    def rows(self) -> Path:
        """The basis, one vector after the other."""
        return self.folder / f"probe-{self.probe:03d}.rows"


def identity(op: Operator, *settings: Any) -> str:
    """A hash of the operator (its functions by name, every array by content) and of the settings of a measurement."""
    digest = hashlib.blake2b(digest_size=16)
    names = [_name(function) for term in op.terms for function in (term.product, *term.functions)]
    cuts = [(term.batches.batch_size, term.batches.statistics_batch) for term in op.terms]
    digest.update(repr((jax.tree.structure(op.params), names, cuts, settings)).encode())
    for leaf in jax.tree.leaves(op):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load(place: Place, empty: State, rows: np.ndarray | None = None) -> tuple[State, int]:
    """The stored state and the number of its next step; `empty` and 0 where nothing is stored.

    `rows` [m, P] is filled where the basis lies in the host's memory.

    Raises:
        InputError: what is stored is damaged, or belongs to another operator or other settings.
    """
    if not place.state.exists():
        return empty, 0
    try:
        with np.load(place.state) as stored:
            arrays = dict(stored)
        owner, step = str(arrays.pop("identity")), int(arrays.pop("step"))
        fields = {name: jnp.asarray(arrays[name]) for name in State._fields if name != "slabs"}
    except Exception as error:
        raise InputError(f"{place.state} is damaged ({error}); delete it to begin again") from error
    if owner != place.identity:
        raise InputError(
            f"{place.state} belongs to another operator or other settings; give another folder, or delete it"
        )
    if rows is not None:
        rows[:step] = _read_rows(place, 0, step, rows)
    slabs, start = [], 0
    for slab in empty.slabs:
        stored = _read_rows(place, start, min(max(step - start, 0), len(slab)), slab)
        slabs.append(jax.device_put(slab.at[: len(stored)].set(stored), slab.sharding))
        start += len(slab)
    return State(slabs=tuple(slabs), **fields), step


def save(place: Place, state: State, rows: np.ndarray | None, step: int, num_saved: int) -> None:
    """Store the state before step `step`; the first `num_saved` rows of the basis are there already."""
    with files.full_disk_named(place.rows):
        place.folder.mkdir(parents=True, exist_ok=True)
        _append_rows(place, state.slabs if rows is None else (rows,), step, num_saved)
    arrays = {name: np.asarray(value) for name, value in state._asdict().items() if name != "slabs"}
    files.write_arrays(place.state, {**arrays, "identity": np.array(place.identity), "step": np.array(step)})


def _append_rows(place: Place, slabs: tuple[Any, ...], step: int, num_saved: int) -> None:
    start = 0
    with open(place.rows, "r+b" if place.rows.exists() else "w+b") as file:
        for slab in slabs:
            first, last = max(num_saved - start, 0), min(step - start, len(slab))
            if first < last:
                file.seek((start + first) * slab.shape[1] * slab.dtype.itemsize)
                file.write(np.asarray(slab[first:last]).tobytes())
            start += len(slab)
        file.flush()
        os.fsync(file.fileno())


def _read_rows(place: Place, start: int, count: int, like: Any) -> np.ndarray:
    length, offset = like.shape[1], start * like.shape[1] * like.dtype.itemsize
    try:
        return np.fromfile(place.rows, like.dtype, count * length, offset=offset).reshape(count, length)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{place.rows} is missing or short; delete it and {place.state.name} to begin again"
        ) from error


def _name(function: Callable) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
