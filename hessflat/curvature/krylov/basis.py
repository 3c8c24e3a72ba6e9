"""The basis of a Lanczos recurrence: its storage, and the orthogonalisation of a vector against it.

Vectors are stored in blocks of rows, and only blocks that hold vectors are read: a static [m, P] array in a compiled
loop would be read whole at every step. Blocks may be in half precision. On the devices of a mesh every row is spread as
vectors are (`vectors.Layout`); the functions here take the parts of one device, inside `vectors.over_devices`, and sum
inner products alone over devices.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from hessflat.curvature import numerics, vectors
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils import hardware

Storage = Literal["device", "half", "host"]
Blocks = tuple[Any, ...]  # of rows, each an array [r, n], or several where a vector is

# Rows in a block: fewer rows need more calls, more rows mean reading more empty ones.
_ROWS = 25


# One program for all blocks.
@partial(jax.jit, static_argnums=(0, 1, 2))
def allocate(layout: Layout, num_rows: int, storage: Storage) -> Blocks:
    """Zeros for `num_rows` vectors."""
    dtype = jnp.dtype(jnp.float16) if storage == "half" else layout.dtype
    starts = range(0, num_rows, _ROWS)
    return tuple(vectors.zeros(layout, min(_ROWS, num_rows - start), dtype) for start in starts)


def bytes_needed(layout: Layout, num_rows: int, storage: Storage) -> int:
    """The memory of `num_rows` vectors, in bytes on each device; with "host", in the host's memory in all."""
    itemsize = 2 if storage == "half" else int(jnp.dtype(layout.dtype).itemsize)
    return num_rows * sum(layout.lengths) * itemsize * (layout.num_devices if storage == "host" else 1)


def require_memory(layout: Layout, num_rows: int, storage: Storage, platform: str) -> None:
    """Refuse a basis of `num_rows` vectors that does not fit on a device of `platform`, or into the host.

    Raises:
        InputError: it needs more bytes than are free; the message names alternatives.
    """
    instead = 'take fewer steps, storage="half", or reorthogonalise="none"'
    if storage in ("half", "host"):
        instead = 'take fewer steps, or reorthogonalise="none"'
    elif platform != "cpu":
        instead = 'take storage="host" or "half", fewer steps, or reorthogonalise="none"'
    what = f"a basis of {num_rows} vectors of {layout.size:,} numbers"
    needed = bytes_needed(layout, num_rows, storage)
    if storage == "host":
        hardware.require_bytes(needed, what, instead, hardware.free_host_bytes(), layout.spans_processes)
    else:
        # Devices of a CPU share one memory.
        needed *= layout.num_devices if platform == "cpu" else 1
        hardware.require_bytes(needed, what, instead, together=layout.spans_processes)


def write_row(layout: Layout, blocks: Blocks, step: Array, vector: Vector) -> Blocks:
    """The blocks with row `step` replaced by `vector`."""
    written, start = [], 0
    for block in blocks:
        written.append(
            jax.tree.map(
                lambda rows, x, at=step - start: _set_row(rows, at, (x * _scale(layout, rows)).astype(rows.dtype)),
                block,
                vector,
            )
        )
        start += _count(block)
    return tuple(written)


def replaced_by(layout: Layout, blocks: Blocks, rows: Vector) -> Blocks:
    """Blocks like these whose first rows are `rows` [l, n], all others zero."""
    written, start = [], 0
    for block in blocks:

        def fill(old: Array, new: Array, start: int = start) -> Array:
            part = (new[start : start + len(old)] * _scale(layout, old)).astype(old.dtype)
            return jnp.pad(part, ((0, len(old) - len(part)), (0, 0)))

        written.append(jax.tree.map(fill, block, rows))
        start += _count(block)
    return tuple(written)


def orthogonalise(layout: Layout, blocks: Blocks, num_rows: int | Array, vector: Vector) -> Vector:
    """`vector` minus its components along the first `num_rows` rows: classical Gram-Schmidt, twice.

    It goes block by block on one device. On several, the inner products with all rows are one sum over devices.
    """

    def once(vector: Vector, compensated: bool = True) -> Vector:
        if layout.mesh is not None:
            return _without_all(layout, blocks, num_rows, vector, compensated)
        start = 0
        for block in blocks:
            vector = jax.lax.cond(
                start < num_rows,
                lambda block, v: _minus(layout, v, block, _dots(layout, block, v, compensated)),
                lambda block, v: v,
                block,
                vector,
            )
            start += _count(block)
        return vector

    if any(map(numerics.is_long, jax.tree.leaves(vector))):
        # The second pass removes what the rounding of the first has left, and then its own rounding stays.
        return once(once(vector, compensated=False))
    return jax.lax.fori_loop(0, 2, lambda _, v: once(v), vector)  # half the code to compile


def combine(layout: Layout, blocks: Blocks, coefficients: Array) -> Vector:
    """The linear combinations [k, n] of the rows with `coefficients` [k, m]."""
    total: Any = None
    start = 0
    for block in blocks:
        part = coefficients[:, start : start + _count(block)]
        part = jnp.pad(part, ((0, 0), (0, _count(block) - part.shape[1])))
        along = jax.tree.map(lambda rows, c=part: _matmul(c / _scale(layout, rows), rows), block)
        # Zero at first, so that a single block is added as others are.
        total = jax.tree.map(jnp.zeros_like, along) if total is None else total
        total = jax.tree.map(jnp.add, total, along)
        start += _count(block)
    return total


def all_rows(layout: Layout, blocks: Blocks) -> Vector:
    """All rows together [m, n], in the working precision."""
    join = lambda *rows: jnp.concatenate([r.astype(layout.dtype) / _scale(layout, r) for r in rows])  # noqa: E731
    return jax.tree.map(join, *blocks)


def orthogonality_loss(layout: Layout, blocks: Blocks, num_rows: Array) -> np.ndarray:
    """The largest |Q Qᵀ − I| over the first `num_rows` [...] rows of blocks [..., ., n]."""
    arrays = list(zip(*map(jax.tree.leaves, blocks), strict=True))
    if layout.mesh is None:
        products = sum(numerics.gram(rows) for rows in arrays)
    else:
        products = sum(hardware.on_host(part, np.float64).sum(axis=0) for part in _gram_over_devices(layout, blocks))
    scales = np.concatenate([np.full(rows.shape[-2], _scale(layout, rows)) for rows in arrays[0]])
    in_use = np.arange(len(scales)) < np.asarray(num_rows)[..., None]
    error = np.abs(products / np.outer(scales, scales) - np.eye(len(scales)) * in_use[..., None])
    return np.asarray(error.max((-2, -1)))


@partial(jax.jit, static_argnums=0)
def _gram_over_devices(layout: Layout, blocks: Blocks) -> list[Array]:
    """Parts [D, m, m], of every device its own, whose sum in double precision is Q Qᵀ."""

    def local(blocks: Blocks) -> list[Array]:
        arrays = zip(*map(jax.tree.leaves, blocks), strict=True)
        return [part[None] for rows in arrays for part in numerics.gram_in_two(rows)]

    count, whole = 2 * len(layout.arrays), PartitionSpec(layout.axes)
    over = vectors.over_devices(layout, local, (vectors.specs(layout, blocks),), [whole] * count)
    result: list[Array] = over(blocks)
    return result


def _without_all(layout: Layout, blocks: Blocks, num_rows: Any, vector: Vector, compensated: bool) -> Vector:
    """One pass of Gram-Schmidt on one of several devices."""
    axes, start, dots = layout.axes, 0, []
    assert axes is not None
    for block in blocks:
        nothing = jnp.zeros(_count(block), layout.dtype)
        dots.append(
            jax.lax.cond(
                start < num_rows,
                lambda block, v: _dots(layout, block, v, compensated).astype(layout.dtype),
                lambda block, v, nothing=nothing: nothing,
                block,
                vector,
            )
        )
        start += _count(block)
    everything, start = jax.lax.psum(jnp.concatenate(dots), axes), 0
    for block in blocks:
        part = jax.lax.dynamic_slice_in_dim(everything, start, _count(block))
        vector = jax.lax.cond(
            start < num_rows,
            lambda block, v, c: _minus(layout, v, block, c),
            lambda block, v, c: v,
            block,
            vector,
            part,
        )
        start += _count(block)
    return vector


def _dots(layout: Layout, block: Any, vector: Vector, compensated: bool) -> Array:
    """The inner products [r] of the rows of a block with a vector; both are divided by the rows' scale once each."""
    parts = [
        numerics.accurate_dot(rows, x, compensated) / _scale(layout, rows) ** 2 for rows, x in _together(block, vector)
    ]
    return parts[0] if len(parts) == 1 else jnp.stack(parts).sum(axis=0)


def _minus(layout: Layout, vector: Vector, block: Any, coefficients: Array) -> Vector:
    """A vector minus a combination of the rows of a block."""
    return jax.tree.map(lambda x, rows: x - numerics.combination(coefficients, rows).astype(x.dtype), vector, block)


def _together(a: Any, b: Any) -> list[tuple[Array, Array]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _count(block: Any) -> int:
    """The rows of a block."""
    result: int = jax.tree.leaves(block)[0].shape[-2]
    return result


def _set_row(block: Array, row: Array, vector: Array) -> Array:
    """The block with row `row` replaced, if it has that row; reading and writing one row updates the block in place."""
    inside = (row >= 0) & (row < len(block))
    row = jnp.clip(row, 0, len(block) - 1)
    value = jnp.where(inside, vector[None], jax.lax.dynamic_slice_in_dim(block, row, 1))
    return jax.lax.dynamic_update_slice_in_dim(block, value, row, 0)


def _matmul(a: Array, b: Array) -> Array:
    """A product in single precision at least."""
    return jnp.matmul(numerics.widened(a), numerics.widened(b), precision=numerics.EXACT)


def _scale(layout: Layout, rows: Array) -> float:
    """The factor √P on the entries of unit vectors in half precision, which has few small numbers."""
    return math.sqrt(layout.size) if rows.dtype == jnp.float16 else 1.0
