"""The vectors that a Lanczos recurrence keeps, and how a new one is made orthogonal to them.

They are stored in slabs of rows, and only the slabs that hold something are read: a static [m, P] array in a compiled
loop would be read whole at every step. A slab may be of half precision, and where the examples are spread over
devices the rows of every slab are, so that no vector ever has to be gathered.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from hessflat.curvature.numerics import sums
from hessflat.curvature.operators.batches import Devices

Storage = Literal["device", "half", "host"]
Slabs = tuple[Array, ...]

# Rows are read in pieces of this many: fewer would mean more calls, more would mean reading rows that are empty.
_ROWS = 20


def allocate(num_rows: int, size: int, dtype: jnp.dtype, storage: Storage, devices: Devices | None) -> Slabs:
    """Zeros for `num_rows` vectors [P]; on several devices the last slab may have some rows to spare."""
    step = _ROWS if devices is None else devices.pieces * math.ceil(_ROWS / devices.pieces)
    dtype = jnp.dtype(jnp.float16) if storage == "half" else dtype
    slabs = []
    for start in range(0, num_rows, step):
        rows = min(step, num_rows - start) if devices is None else step
        slabs.append(jnp.zeros((rows, size), dtype, device=_placement(devices)))
    return tuple(slabs)


def num_bytes(num_rows: int, size: int, dtype: jnp.dtype, storage: Storage) -> int:
    """Memory that `allocate` takes, over all devices."""
    return num_rows * size * (2 if storage == "half" else jnp.dtype(dtype).itemsize)


def write(slabs: Slabs, step: Array, vector: Array, devices: Devices | None) -> Slabs:
    """Row `step` becomes `vector`."""
    written, start = [], 0
    for slab in slabs:
        value = (vector * _scale(slab)).astype(slab.dtype)
        if devices is None:
            written.append(_write_row(slab, step - start, value))
        else:
            rows = len(slab) // devices.pieces
            place = jax.shard_map(
                lambda slab, row, value, rows=rows: _write_row(slab, row - _position(devices) * rows, value),
                mesh=devices.mesh,
                in_specs=(PartitionSpec(devices.axes), PartitionSpec(), PartitionSpec()),
                out_specs=PartitionSpec(devices.axes),
                check_vma=False,
            )
            written.append(place(slab, step - start, value))
        start += len(slab)
    return tuple(written)


def orthogonalise(slabs: Slabs, num_rows: int | Array, vector: Array, devices: Devices | None) -> Array:
    """`vector` without what it has along the first `num_rows` rows: classical Gram-Schmidt, slab by slab, twice."""

    def once(vector: Array, roughly: bool = False) -> Array:
        start = 0
        for slab in slabs:
            vector = jax.lax.cond(
                start < num_rows,
                lambda slab, v: v - _along(slab, v, devices, roughly),
                lambda slab, v: v,
                slab,
                vector,
            )
            start += len(slab)
        return vector

    if sums.is_long(vector):
        # The second pass takes out what the rounding of the first has left.
        return once(once(vector, roughly=True))
    return jax.lax.fori_loop(0, 2, lambda _, v: once(v), vector)  # half the code to compile


def combine(slabs: Slabs, coefficients: Array, devices: Devices | None) -> Array:
    """`coefficients` [k, m] times the rows: [k, P]."""
    total, start = jnp.zeros((len(coefficients), slabs[0].shape[1]), coefficients.dtype), 0
    by_rows = PartitionSpec(None, devices.axes) if devices else PartitionSpec()
    for slab in slabs:
        part = coefficients[:, start : start + len(slab)]
        part = jnp.pad(part, ((0, 0), (0, len(slab) - part.shape[1]))) / _scale(slab)
        total = total + _spread(lambda s, c: _matmul(c, s), devices, by_rows)(slab, part)
        start += len(slab)
    return total


def rows_of(slabs: Slabs, dtype: jnp.dtype) -> Array:
    """All rows in one array [m, P] of the working precision."""
    return jnp.concatenate([slab.astype(dtype) / _scale(slab) for slab in slabs])


def orthogonality_loss(slabs: Slabs, num_rows: Array, devices: Devices | None) -> np.ndarray:
    """The largest |Q Qᵀ − I| over the first `num_rows` [...] rows of slabs [..., ., P].

    On several devices it is estimated, from eight combinations of rows with random signs s, as the root mean square
    of Q Qᵀ s − s in its largest entry: comparing every row with every other would gather them.
    """
    if devices is not None:
        return np.asarray(_estimated_loss(slabs, num_rows, devices))
    scales = np.concatenate([np.full(slab.shape[-2], _scale(slab)) for slab in slabs])
    in_use = np.arange(len(scales)) < np.asarray(num_rows)[..., None]
    return np.abs(sums.gram(slabs) / np.outer(scales, scales) - np.eye(len(scales)) * in_use[..., None]).max((-2, -1))


@partial(jax.jit, static_argnames="devices")
def _estimated_loss(slabs: Slabs, num_rows: Array, devices: Devices) -> Array:
    total = sum(len(slab) for slab in slabs)
    signs = jax.random.rademacher(jax.random.key(0), (8, total), jnp.float32) * (jnp.arange(total) < num_rows)[None]
    error = _times_rows(slabs, combine(slabs, signs, devices), devices) - signs
    return jnp.sqrt(jnp.mean(error**2, axis=0).max())


def _times_rows(slabs: Slabs, vectors: Array, devices: Devices) -> Array:
    """[k, m] products of `vectors` [k, P] with every row."""
    columns, start = [], 0
    total = sum(len(slab) for slab in slabs)
    for slab in slabs:
        rows = len(slab) // devices.pieces

        def products(slab: Array, vectors: Array, start: int = start, rows: int = rows) -> Array:
            mine = _matmul(vectors, slab.T) / _scale(slab)
            everything = jnp.zeros((len(vectors), total), mine.dtype)
            return jax.lax.dynamic_update_slice(everything, mine, (0, start + _position(devices) * rows))

        columns.append(_spread(products, devices)(slab, vectors))
        start += len(slab)
    return sum(columns[1:], columns[0])


def _along(slab: Array, vector: Array, devices: Devices | None, roughly: bool) -> Array:
    """What `vector` has along the rows of a slab."""

    def project(slab: Array, vector: Array) -> Array:
        coefficients = sums.dots(slab, vector, roughly) / _scale(slab) ** 2
        return sums.combination(coefficients, slab).astype(vector.dtype)

    return _spread(project, devices)(slab, vector)


def _spread(function: Callable, devices: Devices | None, other: PartitionSpec | None = None) -> Callable:
    """`function(slab, x)` on the rows of every device, summed over devices; x is everywhere, or as `other` says."""
    if devices is None:
        return function
    return jax.shard_map(
        lambda slab, x: jax.lax.psum(function(slab, x), devices.axes),
        mesh=devices.mesh,
        in_specs=(PartitionSpec(devices.axes), other or PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )


def _write_row(slab: Array, row: Array, vector: Array) -> Array:
    """Row `row` of the slab, if it has one; the row is read and written, so that the slab is updated in place."""
    inside = (row >= 0) & (row < len(slab))
    row = jnp.clip(row, 0, len(slab) - 1)
    value = jnp.where(inside, vector[None], jax.lax.dynamic_slice_in_dim(slab, row, 1))
    return jax.lax.dynamic_update_slice_in_dim(slab, value, row, 0)


def _matmul(a: Array, b: Array) -> Array:
    """A product in single precision at least."""
    return jnp.matmul(sums.widened(a), sums.widened(b))


def _scale(slab: Array) -> float:
    """Half precision has few small numbers: there the entries of a unit vector are stored times √P."""
    return math.sqrt(slab.shape[-1]) if slab.dtype == jnp.float16 else 1.0


def _position(devices: Devices) -> Array:
    """Which of the devices this is, counted along the spread axes."""
    return jax.lax.axis_index(devices.axes)


def _placement(devices: Devices | None) -> NamedSharding | None:
    return None if devices is None else NamedSharding(devices.mesh, PartitionSpec(devices.axes))
