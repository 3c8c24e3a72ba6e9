"""Vectors of a measurement: how a tree like the parameters becomes one, what is computed with them, and their probes.

On one device a vector is one array [P], the leaves of the tree one after the other. On the devices of a mesh it is one
array too, of which each device holds a part [n]: the numbers that are its own, those of its shards of the leaves. Every
number is held by one device, and what fills the parts up to one length is zero. So sums, multiples and inner products
of vectors, and a basis of them, move nothing between devices but the few numbers of the inner products. What takes a
tree is the product alone: there a leaf goes where that leaf of the parameters lies, leaf by leaf.

An array on one device has fewer than 2³¹ numbers, which XLA's indices can count. A longer vector is a tuple of arrays.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from hessflat.curvature import numerics
from hessflat.curvature.layout import Layout, Leaf, other_axes
from hessflat.curvature.numerics import Probe
from hessflat.utils import compat, hardware, processes

# One array, or several where one would be too long.
Vector = Any

# Numbers that are drawn at once.
_DRAWN = 2**22


# Within a compiled function both are part of it; by themselves each is one program.
@partial(jax.jit, static_argnums=0, inline=True)
def from_tree(layout: Layout, tree: Any) -> Vector:
    """The vector of a tree like the parameters."""
    leaves = [jnp.asarray(x, layout.dtype) for x in jax.tree.leaves(tree)]
    if layout.mesh is None:
        return _one_or_all([numerics.ravel([leaves[i] for i in group]) for group in layout.arrays])
    specs = [leaf.entry for leaf in layout.leaves]
    return over_devices(layout, partial(_from_shards, layout), (specs,), _each_array(layout, layout.spec))(leaves)


@partial(jax.jit, static_argnums=0, inline=True)
def to_tree(layout: Layout, vector: Vector) -> Any:
    """The tree of a vector, each leaf where that leaf of the parameters lies."""
    if layout.mesh is None:
        parts = [part for array, group in _grouped(layout, vector) for part in _cut(layout, array, group)]
        return jax.tree.unflatten(layout.structure, parts)
    specs = [leaf.entry for leaf in layout.leaves]
    shards = over_devices(layout, partial(_to_shards, layout), (_each_array(layout, layout.spec),), specs)(vector)
    placed = [
        jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, leaf.place)).astype(leaf.dtype)
        for x, leaf in zip(shards, layout.leaves, strict=True)
    ]
    return jax.tree.unflatten(layout.structure, placed)


def rows_to_tree(layout: Layout, rows: Vector) -> Any:
    """A tree with a leading axis of vectors [k, ...], each leaf where that leaf of the parameters lies."""
    if layout.mesh is None and len(layout.arrays) == 1:
        return numerics.unravel(layout.like, rows)
    count = jax.tree.leaves(rows)[0].shape[0]
    trees = [to_tree(layout, jax.tree.map(lambda x, k=k: x[k], rows)) for k in range(count)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)
    if layout.mesh is None:
        return stacked
    where = [NamedSharding(layout.mesh, PartitionSpec(None, *leaf.place)) for leaf in layout.leaves]
    return jax.device_put(stacked, jax.tree.unflatten(layout.structure, where))


def placed(layout: Layout, tree: Any) -> Any:
    """A tree like the parameters, each leaf where that leaf of the parameters lies."""
    if layout.mesh is None:
        return tree
    where = [NamedSharding(layout.mesh, leaf.place) for leaf in layout.leaves]
    return jax.lax.with_sharding_constraint(tree, jax.tree.unflatten(layout.structure, where))


def zeros(layout: Layout, rows: int | None = None, dtype: Any = None) -> Vector:
    """A zero vector, or the arrays [rows, n] of several."""
    return _zeros(layout, rows, jnp.dtype(layout.dtype if dtype is None else dtype))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(layout: Layout, rows: int | None, dtype: Any) -> Vector:
    arrays = []
    for each in layout.array_lengths:
        length = layout.num_devices * each
        array = jnp.zeros((length,) if rows is None else (rows, length), dtype)
        if layout.mesh is not None:
            spec = layout.spec if rows is None else layout.rows_spec
            array = jax.lax.with_sharding_constraint(array, NamedSharding(layout.mesh, spec))
        arrays.append(array)
    return _one_or_all(arrays)


def draw(layout: Layout, key: Array, probe: Probe, number: int = 0) -> Vector:
    """A unit vector, as `numerics.draw_probe` has it: the same numbers on any devices.

    Every device's part is drawn for itself, a few million numbers at a time.
    """
    if layout.mesh is None and len(layout.arrays) == 1:
        return numerics.draw_probe(key, layout.size, layout.dtype, probe, number)
    numbers = numerics.probe_numbers(key, layout.size, layout.dtype, probe, number)
    offsets = np.cumsum([0, *(math.prod(leaf.shape) for leaf in layout.leaves)])

    def of_device(position: int, group: list[int]) -> np.ndarray:
        return np.concatenate([_drawn(layout, layout.leaves[i], int(offsets[i]), position, numbers) for i in group])

    if layout.mesh is None:
        return _one_or_all([numerics.on_device(of_device(0, group)) for group in layout.arrays])
    arrays, sharding = [], NamedSharding(layout.mesh, layout.spec)
    for group, length in zip(layout.arrays, layout.array_lengths, strict=True):
        part = partial(_part_at, of_device, group, length)
        arrays.append(jax.make_array_from_callback((layout.num_devices * length,), sharding, part))
    return _one_or_all(arrays)


def _part_at(
    of_device: Callable[[int, list[int]], np.ndarray], group: list[int], length: int, index: Any
) -> np.ndarray:
    """What `of_device` gives for the device that holds `index` of an array with `length` numbers a device."""
    return of_device((index[0].start or 0) // length, group)


def dot(a: Vector, b: Vector, axes: tuple[str, ...] | None = None) -> Array:
    """The inner product of two vectors; inside `jax.shard_map`, with the mesh's `axes`, of which each has a part."""
    return _summed(
        [jnp.vdot(x, y, precision=numerics.EXACT) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)],
        axes,
    )


@partial(jax.jit, static_argnums=0, inline=True)
def dots(layout: Layout, rows: Vector, vector: Vector) -> Array:
    """The inner products [r] of `rows` [r, P] with a vector, outside `jax.shard_map`."""

    def local(rows: Vector, vector: Vector) -> Array:
        pairs = zip(jax.tree.leaves(rows), jax.tree.leaves(vector), strict=True)
        return _summed([numerics.accurate_dot(q, x) for q, x in pairs], layout.axes)

    by_row = jax.tree.map(lambda _: layout.rows_spec, rows)
    result: Array = over_devices(layout, local, (by_row, specs(layout, vector)), PartitionSpec())(rows, vector)
    return result


def norm(x: Vector, axes: tuple[str, ...] | None = None) -> Array:
    """The Euclidean norm without underflow: the curvature of a saturated network can be 1e-30."""
    largest = size_of_largest(x, axes)
    scale = jnp.where(largest > 0, largest, 1)
    parts = jax.tree.leaves(x)
    if len(parts) == 1 and axes is None:
        result: Array = largest * jnp.linalg.norm(parts[0] / scale)
        return result
    return largest * jnp.sqrt(_summed([jnp.sum(jnp.square(part / scale)) for part in parts], axes))


def plain_norm(x: Vector, axes: tuple[str, ...] | None = None) -> Array:
    """The Euclidean norm of a vector whose squares do not underflow."""
    parts = jax.tree.leaves(x)
    if len(parts) == 1 and axes is None:
        result: Array = jnp.linalg.norm(parts[0])
        return result
    return jnp.sqrt(_summed([jnp.sum(jnp.square(part)) for part in parts], axes))


def any_nonzero(x: Vector, axes: tuple[str, ...] | None = None) -> Array:
    """Whether any number is not zero."""
    return jnp.any(x != 0) if isinstance(x, jax.Array) and axes is None else size_of_largest(x, axes) != 0


def size_of_largest(x: Vector, axes: tuple[str, ...] | None = None) -> Array:
    """The largest magnitude of a number."""
    largest = [jnp.abs(part).max() for part in jax.tree.leaves(x)]
    total = largest[0] if len(largest) == 1 else jnp.stack(largest).max()
    return total if axes is None else jax.lax.pmax(total, axes)


def specs(layout: Layout, vector: Vector) -> Any:
    """The partition of each array of a vector over devices."""
    return jax.tree.map(lambda _: layout.spec, vector)


def to_flat(layout: Layout, vector: Vector) -> np.ndarray:
    """The numbers [P] of a vector on the host, in the order of the tree, in the vector's own type."""
    kept = dataclasses.replace(layout, leaves=_all_of(layout, jax.tree.leaves(vector)[0].dtype))
    return flat_on_host(to_tree(kept, vector))


def from_flat(layout: Layout, numbers: np.ndarray) -> Vector:
    """The inverse of `to_flat`."""
    if layout.mesh is None:
        return from_host(layout, numbers)
    kept = dataclasses.replace(layout, leaves=_all_of(layout, numbers.dtype), dtype=numbers.dtype)
    leaves = jax.tree.leaves(numerics.unravel_on_host(kept.like, numbers))
    placed = [
        jax.make_array_from_callback(leaf.shape, NamedSharding(layout.mesh, leaf.entry), x.__getitem__)
        for leaf, x in zip(kept.leaves, leaves, strict=True)
    ]
    return from_tree(kept, jax.tree.unflatten(layout.structure, placed))


def flat_on_host(tree: Any) -> np.ndarray:
    """The leaves of a tree like the parameters one after the other, on the host of every process: [P]."""
    return np.concatenate([np.ravel(hardware.on_host(leaf)) for leaf in jax.tree.leaves(tree)])


def _all_of(layout: Layout, dtype: Any) -> tuple[Leaf, ...]:
    return tuple(leaf._replace(dtype=jnp.dtype(dtype)) for leaf in layout.leaves)


def to_host(vector: Vector) -> np.ndarray:
    """A copy [n] of what the devices of this process hold of a vector."""
    arrays = jax.tree.leaves(vector)
    parts = [np.asarray(shard.data) for array in arrays for shard in _own_shards(array)]
    return np.array(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def from_host(layout: Layout, numbers: np.ndarray) -> Vector:
    """The inverse of `to_host`."""
    if layout.mesh is None:
        cuts = np.cumsum(layout.array_lengths)[:-1]
        return _one_or_all([jnp.asarray(part) for part in np.split(numbers, cuts)])
    arrays, start = [], 0
    sharding = NamedSharding(layout.mesh, layout.spec)
    for length in layout.array_lengths:
        shape, shards = (layout.num_devices * length,), []
        for device in _by_position(sharding.addressable_devices_indices_map(shape)):
            shards.append(jax.device_put(numbers[start : start + length], device))
            start += length
        arrays.append(jax.make_array_from_single_device_arrays(shape, sharding, shards))
    return _one_or_all(arrays)


def inner_on_host(a: Any, b: Any) -> float:
    """The inner product of two trees that lie alike, in float64."""
    return _sum_on_host(lambda x, y: float(np.vdot(x, y)), a, b)


def squared_distance_on_host(a: Any, b: Any) -> float:
    """‖a − b‖² of two trees that lie alike, in float64."""
    return _sum_on_host(lambda x, y: float(np.sum((x - y) ** 2)), a, b)


def _sum_on_host(function: Callable[[np.ndarray, np.ndarray], float], a: Any, b: Any) -> float:
    """The sum of `function` over the shards of two trees: every process adds what its devices hold."""
    total = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        for one, other in zip(x.addressable_shards, y.addressable_shards, strict=True):
            if one.replica_id == 0:
                total += function(*(np.asarray(shard.data, np.float64) for shard in (one, other)))
    return float(sum_over_processes(np.array(total), processes.spans(a)))


def sum_over_processes(numbers: np.ndarray, together: bool) -> np.ndarray:
    """The sum of what every process has; these numbers where they are not `together`, as of `processes.spans`."""
    if not together:
        return numbers
    result: np.ndarray = compat.from_all_processes(numbers).sum(axis=0)
    return result


def _own_shards(array: Array) -> list[Any]:
    return sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)


def _by_position(indices: Any) -> list[Any]:
    return sorted(indices, key=lambda device: indices[device][0].start or 0)


def over_devices(layout: Layout, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` of the parts that a device holds, as `jax.shard_map` has it; itself on one device."""
    if layout.mesh is None:
        return function
    result: Callable[..., Any] = jax.shard_map(
        function, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return result


def _summed(parts: list[Array], axes: tuple[str, ...] | None) -> Array:
    total = parts[0] if len(parts) == 1 else jnp.stack(parts).sum(axis=0)
    return total if axes is None else jax.lax.psum(total, axes)


def _from_shards(layout: Layout, shards: list[Array]) -> Vector:
    """The part of a vector on one device, from its shards of the leaves."""
    axes = layout.axes
    assert axes is not None
    parts = []
    for leaf, shard, length in zip(layout.leaves, shards, layout.lengths, strict=True):
        flat = shard.reshape(-1)
        if leaf.part is None:
            flat = jnp.pad(flat, (0, length * layout.num_devices - len(flat)))
            flat = jax.lax.dynamic_slice_in_dim(flat, jax.lax.axis_index(axes) * length, length)
        elif repeated := other_axes(axes, leaf.part):
            # One device of those that have the same numbers holds them.
            flat = jnp.where(jax.lax.axis_index(repeated) == 0, flat, 0)
        parts.append(flat)
    return _one_or_all([numerics.ravel([parts[i] for i in group]) for group in layout.arrays])


def _to_shards(layout: Layout, vector: Vector) -> list[Array]:
    """The shards of the leaves on one device, from its part of a vector; a leaf that was cut is whole again."""
    axes = layout.axes
    assert axes is not None
    assert layout.mesh is not None
    shards, lengths = [], layout.lengths
    for array, group in _grouped(layout, vector):
        start = 0
        for number in group:
            leaf, length = layout.leaves[number], lengths[number]
            part = jax.lax.slice_in_dim(array, start, start + length)
            start += length
            if leaf.part is None:
                part = jax.lax.all_gather(part, axes, tiled=True)[: math.prod(leaf.shape)].reshape(leaf.shape)
            else:
                if repeated := other_axes(axes, leaf.part):
                    part = jax.lax.psum(part, repeated)
                part = part.reshape(NamedSharding(layout.mesh, leaf.part).shard_shape(leaf.shape))
            shards.append(part)
    return shards


def _drawn(layout: Layout, leaf: Leaf, offset: int, position: int, numbers: Callable[[int, int], Any]) -> np.ndarray:
    """What the device at `position` holds of a leaf, whose first number in the tree is `offset`."""
    size = math.prod(leaf.shape)
    if layout.mesh is None or leaf.part is None:
        length = layout.length_of(leaf)
        start, stop = min(position * length, size), min((position + 1) * length, size)
        drawn = [numbers(offset + a, offset + b) for a, b in _runs(start, stop, _DRAWN)]
        return np.concatenate([*drawn, np.zeros(length - (stop - start), layout.dtype)])
    axes = layout.axes
    assert axes is not None
    place = np.unravel_index(position, layout.mesh.devices.shape)
    where = dict(zip(axes, place, strict=True))
    if any(where[axis] for axis in other_axes(axes, leaf.part)):
        return np.zeros(layout.length_of(leaf), layout.dtype)
    device = layout.mesh.devices[place]
    index = NamedSharding(layout.mesh, leaf.part).devices_indices_map(leaf.shape)[device]
    first, *rest = (slice(*one.indices(length)) for one, length in zip(index, leaf.shape, strict=True))
    inner = size // leaf.shape[0]
    rows = [
        numbers(offset + a * inner, offset + b * inner).reshape(b - a, *leaf.shape[1:])[:, *rest].reshape(-1)
        for a, b in _runs(first.start, first.stop, max(1, _DRAWN // inner))
    ]
    return np.concatenate(rows)


def _runs(start: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, length):
        yield first, min(first + length, stop)


def _cut(layout: Layout, array: Array, group: list[int]) -> list[Array]:
    leaves = [layout.leaves[i] for i in group]
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    result: list[Array] = numerics.unravel(like, array)
    return result


def _grouped(layout: Layout, vector: Vector) -> list[tuple[Array, list[int]]]:
    """The arrays of a vector with the leaves that each holds."""
    return list(zip(vector if isinstance(vector, tuple) else (vector,), layout.arrays, strict=True))


def _one_or_all(arrays: list[Any]) -> Vector:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _each_array(layout: Layout, spec: PartitionSpec) -> Any:
    """`spec` for each array of a vector."""
    return _one_or_all([spec for _ in layout.arrays])
