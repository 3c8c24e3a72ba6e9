"""The basis of a Lanczos recurrence: its storage, and the orthogonalisation of a vector against it.

Vectors are stored in blocks of rows, and only blocks that hold vectors are read: a static [m, P] array in a compiled
loop would be read whole at every step. Blocks may be in half precision. Where the examples are spread over devices, the
rows of every block are too, so that no vector is ever gathered.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from hessflat.curvature import numerics
from hessflat.curvature.operators.terms import Devices
from hessflat.utils import hardware

Storage = Literal["device", "half", "host"]
Blocks = tuple[Array, ...]

# Rows in a block: fewer rows need more calls, more rows mean reading more empty ones.
_ROWS = 20


def allocate(num_rows: int, size: int, dtype: jnp.dtype, storage: Storage, devices: Devices | None) -> Blocks:
    """Zeros for `num_rows` vectors [P]; on several devices the last block may have unused rows."""
    step = _ROWS if devices is None else devices.pieces * math.ceil(_ROWS / devices.pieces)
    dtype = jnp.dtype(jnp.float16) if storage == "half" else dtype
    starts = range(0, num_rows, step)
    if devices is None:
        blocks: Blocks = _zeros(tuple(min(step, num_rows - start) for start in starts), size, dtype)
        return blocks
    return tuple(jnp.zeros((step, size), dtype, device=_placement(devices)) for _ in starts)


# One program for all blocks.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(rows: tuple[int, ...], size: int, dtype: jnp.dtype) -> Blocks:
    return tuple(jnp.zeros((count, size), dtype) for count in rows)


def bytes_needed(num_rows: int, size: int, dtype: jnp.dtype, storage: Storage) -> int:
    """The memory that `allocate` takes, in bytes over all devices."""
    return num_rows * size * (2 if storage == "half" else jnp.dtype(dtype).itemsize)


def require_memory(size: int, dtype: jnp.dtype, num_rows: int, storage: Storage, platform: str) -> None:
    """Refuse a basis of `num_rows` vectors [P] that does not fit on a device of `platform`.

    Raises:
        InputError: it needs more bytes than are free; the message names alternatives.
    """
    instead = 'take fewer steps, storage="half", or reorthogonalise="none"'
    if storage == "half":
        instead = 'take fewer steps, or reorthogonalise="none"'
    elif platform != "cpu" and storage == "device":
        instead = 'take storage="host" or "half", fewer steps, or reorthogonalise="none"'
    what = f"a basis of {num_rows} vectors of {size:,} numbers"
    hardware.require_bytes(bytes_needed(num_rows, size, dtype, storage), what, instead)


def write_row(blocks: Blocks, step: Array, vector: Array, devices: Devices | None) -> Blocks:
    """The blocks with row `step` replaced by `vector`."""
    written, start = [], 0
    for block in blocks:
        value = (vector * _scale(block)).astype(block.dtype)
        if devices is None:
            written.append(_set_row(block, step - start, value))
        else:
            rows = len(block) // devices.pieces
            place: Any = jax.shard_map(
                lambda block, row, value, rows=rows: _set_row(block, row - _position(devices) * rows, value),
                mesh=devices.mesh,
                in_specs=(PartitionSpec(devices.axes), PartitionSpec(), PartitionSpec()),
                out_specs=PartitionSpec(devices.axes),
                check_vma=False,
            )
            written.append(place(block, step - start, value))
        start += len(block)
    return tuple(written)


def replaced_by(blocks: Blocks, rows: Array, devices: Devices | None) -> Blocks:
    """Blocks like these whose first rows are `rows` [l, P], all others zero."""
    written, start = [], 0
    for block in blocks:
        part = (rows[start : start + len(block)] * _scale(block)).astype(block.dtype)
        part = jnp.pad(part, ((0, len(block) - len(part)), (0, 0)))
        if devices is not None:
            mine = len(block) // devices.pieces
            place: Any = jax.shard_map(
                lambda part, mine=mine: jax.lax.dynamic_slice_in_dim(part, _position(devices) * mine, mine),
                mesh=devices.mesh,
                in_specs=PartitionSpec(),
                out_specs=PartitionSpec(devices.axes),
                check_vma=False,
            )
            part = place(part)
        written.append(part)
        start += len(block)
    return tuple(written)


def orthogonalise(blocks: Blocks, num_rows: int | Array, vector: Array, devices: Devices | None) -> Array:
    """`vector` minus its components along the first `num_rows` rows: classical Gram-Schmidt, block by block, twice."""

    def once(vector: Array, compensated: bool = True) -> Array:
        start = 0
        for block in blocks:
            vector = jax.lax.cond(
                start < num_rows,
                lambda block, v: v - _along(block, v, devices, compensated),
                lambda block, v: v,
                block,
                vector,
            )
            start += len(block)
        return vector

    if numerics.is_long(vector):
        # The second pass removes what the rounding of the first has left.
        return once(once(vector, compensated=False))
    result: Array = jax.lax.fori_loop(0, 2, lambda _, v: once(v), vector)  # half the code to compile
    return result


def combine(blocks: Blocks, coefficients: Array, devices: Devices | None) -> Array:
    """The linear combinations [k, P] of the rows with `coefficients` [k, m]."""
    total, start = jnp.zeros((len(coefficients), blocks[0].shape[1]), coefficients.dtype), 0
    by_rows = PartitionSpec(None, devices.axes) if devices else PartitionSpec()
    for block in blocks:
        part = coefficients[:, start : start + len(block)]
        part = jnp.pad(part, ((0, 0), (0, len(block) - part.shape[1]))) / _scale(block)
        total = total + _spread(lambda s, c: _matmul(c, s), devices, by_rows)(block, part)
        start += len(block)
    return total


def all_rows(blocks: Blocks, dtype: jnp.dtype) -> Array:
    """All rows in one array [m, P] of the working precision."""
    return jnp.concatenate([block.astype(dtype) / _scale(block) for block in blocks])


def orthogonality_loss(blocks: Blocks, num_rows: Array, devices: Devices | None) -> np.ndarray:
    """The largest |Q Qᵀ − I| over the first `num_rows` [...] rows of blocks [..., ., P].

    On several devices it is estimated from eight combinations of rows with random signs s: the root mean square of Q Qᵀ
    s − s, maximised over entries. Comparing all pairs of rows would gather them.
    """
    if devices is not None:
        return np.asarray(_estimated_loss(blocks, num_rows, devices))
    scales = np.concatenate([np.full(block.shape[-2], _scale(block)) for block in blocks])
    in_use = np.arange(len(scales)) < np.asarray(num_rows)[..., None]
    products = numerics.gram(blocks) / np.outer(scales, scales)
    loss: np.ndarray = np.abs(products - np.eye(len(scales)) * in_use[..., None]).max((-2, -1))
    return loss


@partial(jax.jit, static_argnames="devices")
def _estimated_loss(blocks: Blocks, num_rows: Array, devices: Devices) -> Array:
    total = sum(len(block) for block in blocks)
    signs = jax.random.rademacher(jax.random.key(0), (8, total), jnp.float32) * (jnp.arange(total) < num_rows)[None]
    error = _times_rows(blocks, combine(blocks, signs, devices), devices) - signs
    return jnp.sqrt(jnp.mean(error**2, axis=0).max())


def _times_rows(blocks: Blocks, vectors: Array, devices: Devices) -> Array:
    """[k, m] products of `vectors` [k, P] with every row."""
    columns, start = [], 0
    total = sum(len(block) for block in blocks)
    for block in blocks:
        rows = len(block) // devices.pieces

        def products(block: Array, vectors: Array, start: int = start, rows: int = rows) -> Array:
            mine = _matmul(vectors, block.T) / _scale(block)
            everything = jnp.zeros((len(vectors), total), mine.dtype)
            return jax.lax.dynamic_update_slice(everything, mine, (0, start + _position(devices) * rows))

        columns.append(_spread(products, devices)(block, vectors))
        start += len(block)
    result: Array = sum(columns[1:], columns[0])
    return result


def _along(block: Array, vector: Array, devices: Devices | None, compensated: bool) -> Array:
    """The component of `vector` along the rows of a block."""

    def project(block: Array, vector: Array) -> Array:
        coefficients = numerics.accurate_dot(block, vector, compensated) / _scale(block) ** 2
        return numerics.combination(coefficients, block).astype(vector.dtype)

    result: Array = _spread(project, devices)(block, vector)
    return result


def _spread(
    function: Callable[..., Any], devices: Devices | None, other: PartitionSpec | None = None
) -> Callable[..., Any]:
    """`function(block, x)` on the rows of every device, summed over devices; x is everywhere, or as `other` says."""
    if devices is None:
        return function
    return jax.shard_map(
        lambda block, x: jax.lax.psum(function(block, x), devices.axes),
        mesh=devices.mesh,
        in_specs=(PartitionSpec(devices.axes), other or PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )


def _set_row(block: Array, row: Array, vector: Array) -> Array:
    """The block with row `row` replaced, if it has that row; reading and writing one row updates the block in place."""
    inside = (row >= 0) & (row < len(block))
    row = jnp.clip(row, 0, len(block) - 1)
    value = jnp.where(inside, vector[None], jax.lax.dynamic_slice_in_dim(block, row, 1))
    return jax.lax.dynamic_update_slice_in_dim(block, value, row, 0)


def _matmul(a: Array, b: Array) -> Array:
    """A product in single precision at least."""
    return jnp.matmul(numerics.widened(a), numerics.widened(b))


def _scale(block: Array) -> float:
    """The factor √P on the entries of unit vectors in half precision, which has few small numbers."""
    return math.sqrt(block.shape[-1]) if block.dtype == jnp.float16 else 1.0


def _position(devices: Devices) -> Array:
    """The index of this device along the axes over which examples are spread."""
    return jax.lax.axis_index(devices.axes)


def _placement(devices: Devices | None) -> NamedSharding | None:
    return None if devices is None else NamedSharding(devices.mesh, PartitionSpec(devices.axes))
