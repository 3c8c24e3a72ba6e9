"""Vectors of a measurement: where they lie, how a tree like the parameters becomes one, what is computed with them.

On one device a vector is one array [P], the leaves of the tree one after the other. On the devices of a mesh it is one
array too, of which each device holds a part [n]: the numbers that are its own, those of its shards of the leaves. Every
number is held by one device, and what fills the parts up to one length is zero. So sums, multiples and inner products
of vectors, and a basis of them, move nothing between devices but the few numbers of the inner products. What takes a
tree is the product alone: there a leaf goes where that leaf of the parameters lies, leaf by leaf.

An array on one device has fewer than 2³¹ numbers, which XLA's indices can count. A longer vector is a tuple of arrays.

The module is long because a vector is one idea: its layout, its trees and its arithmetic are read together.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hessflat.curvature import numerics
from hessflat.curvature.numerics import Probe
from hessflat.utils import hardware

# One array, or several where one would be too long.
Vector = Any

# The most numbers that an array of a vector has on one device.
_LONGEST = 2**30

# Numbers that are drawn at once.
_DRAWN = 2**22


class Leaf(NamedTuple):
    """A leaf of the tree, and its numbers in a vector."""

    shape: tuple[int, ...]
    dtype: Any
    place: PartitionSpec  # of the leaf of the parameters
    part: PartitionSpec | None  # by which devices share its numbers; None where they are cut into equal runs, flat
    length: int  # how many of its numbers a device holds

    @property
    def entry(self) -> PartitionSpec:
        """The partition in which the leaf is made a part of vectors, and comes from them."""
        return PartitionSpec() if self.part is None else self.part


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the numbers of a vector lie. It is static: compiled programs are known by it."""

    structure: Any
    leaves: tuple[Leaf, ...]
    arrays: tuple[tuple[int, ...], ...]  # the leaves that each array of a vector holds, by their numbers
    dtype: Any  # of vectors
    mesh: Mesh | None  # None on one device

    @property
    def size(self) -> int:
        """P."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves)

    @property
    def axes(self) -> tuple[str, ...] | None:
        """The axes of the mesh, over all of which vectors are spread; None on one device."""
        return None if self.mesh is None else tuple(self.mesh.axis_names)

    @property
    def num_devices(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else int(self.mesh.size)

    @property
    def spans_processes(self) -> bool:
        """Whether several processes have devices of the mesh."""
        return self.mesh is not None and len({device.process_index for device in self.mesh.devices.flat}) > 1

    @property
    def lengths(self) -> list[int]:
        """How many numbers of each array of a vector a device holds."""
        return [sum(self.leaves[number].length for number in group) for group in self.arrays]

    @property
    def like(self) -> Any:
        """Shapes and types of vectors as trees."""
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, shapes)


def layout_for(params: Any, data: Any = ()) -> Layout:
    """The layout of vectors for `params`, measured over the arrays of `data`.

    The mesh is that of the parameters where any of them is spread or repeated over devices, else that of the data. A
    leaf that is spread over some axes of it is shared over the others too, along axes of the leaf that divide. A leaf
    that is whole on every device is cut into one run a device.

    Raises:
        InputError: parameters, or parameters and data, on different meshes.
    """
    leaves, structure = jax.tree.flatten(params)
    mesh = hardware.mesh_of("params and data", (leaves, data))
    dtype = jnp.promote_types(numerics.common_dtype(params), jnp.float32)
    parts = tuple(_leaf(leaf, mesh) for leaf in leaves)
    groups: list[tuple[int, ...]] = [()]
    for number, part in enumerate(parts):
        if groups[-1] and sum(parts[i].length for i in groups[-1]) + part.length > _LONGEST:
            groups.append(())
        groups[-1] = (*groups[-1], number)
    return Layout(structure, parts, tuple(groups), jnp.dtype(dtype), mesh)


def _leaf(leaf: Any, mesh: Mesh | None) -> Leaf:
    wide, size = jnp.promote_types(leaf.dtype, jnp.float32), math.prod(leaf.shape)
    sharding = getattr(leaf, "sharding", None)
    if mesh is None or not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
        return Leaf(leaf.shape, wide, PartitionSpec(), None, size if mesh is None else math.ceil(size / mesh.size))
    place = PartitionSpec(*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec)))
    part = _shared(leaf.shape, place, mesh)
    return Leaf(leaf.shape, wide, place, part, size // math.prod(int(mesh.shape[axis]) for axis in _axes(part)))


def _shared(shape: tuple[int, ...], place: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    """`place`, and over the axes of the mesh that it does not have as well, as far as the shape divides."""
    parts = [_tuple(one) for one in place]
    for axis in _other_axes(tuple(mesh.axis_names), place):
        for i, (length, axes) in enumerate(zip(shape, parts, strict=True)):
            if length % (mesh.shape[axis] * math.prod(mesh.shape[name] for name in axes)) == 0:
                parts[i] = (*axes, axis)
                break
    return PartitionSpec(*(axes or None for axes in parts))


def _tuple(axes: Any) -> tuple[str, ...]:
    if axes is None:
        return ()
    return axes if isinstance(axes, tuple) else (axes,)


def _axes(spec: PartitionSpec) -> tuple[str, ...]:
    return tuple(axis for one in spec for axis in _tuple(one))


def _other_axes(axes: tuple[str, ...], spec: PartitionSpec) -> tuple[str, ...]:
    """The axes of the mesh that a partition does not have."""
    return tuple(axis for axis in axes if axis not in _axes(spec))


# Within a compiled function both are part of it; by themselves each is one program.
@partial(jax.jit, static_argnums=0, inline=True)
def from_tree(layout: Layout, tree: Any) -> Vector:
    """The vector of a tree like the parameters."""
    leaves = [jnp.asarray(x, layout.dtype) for x in jax.tree.leaves(tree)]
    if layout.mesh is None:
        return one_or_all([numerics.ravel([leaves[i] for i in group]) for group in layout.arrays])
    entries = [leaf.entry for leaf in layout.leaves]
    spread = one_or_all([PartitionSpec(layout.axes) for _ in layout.arrays])
    return over_devices(layout, partial(_from_shards, layout), (entries,), spread)(leaves)


@partial(jax.jit, static_argnums=0, inline=True)
def to_tree(layout: Layout, vector: Vector) -> Any:
    """The tree of a vector, each leaf where that leaf of the parameters lies."""
    if layout.mesh is None:
        like = jax.tree.leaves(layout.like)
        parts = [numerics.unravel([like[i] for i in group], array) for array, group in _grouped(layout, vector)]
        return jax.tree.unflatten(layout.structure, [leaf for part in parts for leaf in part])
    entries = [leaf.entry for leaf in layout.leaves]
    shards = over_devices(layout, partial(_to_shards, layout), (specs(layout, vector),), entries)(vector)
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


@partial(jax.jit, static_argnums=(0, 1, 2))
def zeros(layout: Layout, rows: int | None = None, dtype: Any = None) -> Vector:
    """A zero vector, or the arrays [rows, n] of several."""
    first = () if rows is None else (rows,)
    arrays = [jnp.zeros((*first, layout.num_devices * length), dtype or layout.dtype) for length in layout.lengths]
    if layout.mesh is not None:
        place = [NamedSharding(layout.mesh, spec) for spec in specs(layout, arrays)]
        arrays = jax.lax.with_sharding_constraint(arrays, place)
    return one_or_all(arrays)


def draw(layout: Layout, key: Array, probe: Probe, number: int = 0) -> Vector:
    """A unit vector, as `numerics.draw_probe` has it: the same numbers on any devices.

    Every device's part is drawn for itself, a few million numbers at a time.
    """
    numbers = numerics.probe_numbers(numerics.words_of(key), layout.size, layout.dtype, probe, number)
    if layout.mesh is None and len(layout.arrays) == 1:
        return numerics.on_device(numbers(0, layout.size))
    offsets = np.cumsum([0, *(math.prod(leaf.shape) for leaf in layout.leaves)])

    def of_device(position: int, group: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([_drawn(layout, layout.leaves[i], int(offsets[i]), position, numbers) for i in group])

    if layout.mesh is None:
        return one_or_all([numerics.on_device(of_device(0, group)) for group in layout.arrays])
    arrays, sharding = [], NamedSharding(layout.mesh, PartitionSpec(layout.axes))
    for group, length in zip(layout.arrays, layout.lengths, strict=True):
        part = partial(_part_at, of_device, group, length)
        arrays.append(jax.make_array_from_callback((layout.num_devices * length,), sharding, part))
    return one_or_all(arrays)


def draw_rows(layout: Layout, key: Array, probe: Probe, numbers: range) -> Vector:
    """Vectors [k, ...], each as `draw` has it; on one device they are put there together."""
    if layout.mesh is None and len(layout.arrays) == 1:
        words = numerics.words_of(key)
        drawn = (numerics.probe_numbers(words, layout.size, layout.dtype, probe, number) for number in numbers)
        return numerics.on_device(np.stack([positions(0, layout.size) for positions in drawn]))
    return jax.tree.map(lambda *x: jnp.stack(x), *(draw(layout, key, probe, number) for number in numbers))


def _part_at(
    of_device: Callable[[int, tuple[int, ...]], np.ndarray], group: tuple[int, ...], length: int, index: Any
) -> np.ndarray:
    """What `of_device` gives for the device that holds `index` of an array with `length` numbers a device."""
    return of_device((index[0].start or 0) // length, group)


def drawn_inside(layout: Layout, key: Array, sampler: Callable[..., Array]) -> Vector:
    """A vector drawn inside a program, each leaf by `sampler(key, shape, dtype)` from a key of its own.

    What fills up the parts of devices is zero.
    """
    keys = jax.random.split(key, len(layout.leaves))
    leaves = [sampler(one, leaf.shape, layout.dtype) for one, leaf in zip(keys, layout.leaves, strict=True)]
    return from_tree(layout, jax.tree.unflatten(layout.structure, leaves))


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

    over = over_devices(layout, local, (specs(layout, rows), specs(layout, vector)), PartitionSpec())
    result: Array = over(rows, vector)
    return result


def norm(x: Vector, axes: tuple[str, ...] | None = None) -> Array:
    """The Euclidean norm without underflow: the curvature of a saturated network can be 1e-30."""
    largest = size_of_largest(x, axes)
    # The inverse of a larger scale would be flushed to zero.
    scale = jnp.where(largest > 0, jnp.minimum(largest, 1 / jnp.finfo(largest.dtype).tiny / 4), 1)
    parts = jax.tree.leaves(x)
    if len(parts) == 1 and axes is None:
        result: Array = scale * jnp.linalg.norm(parts[0] / scale)
        return result
    return scale * jnp.sqrt(_summed([jnp.sum(jnp.square(part / scale)) for part in parts], axes))


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


def specs(layout: Layout, arrays: Any) -> Any:
    """The partition of each array [..., n] of vectors, and of rows of them, over devices."""
    if layout.mesh is None:
        return jax.tree.map(lambda _: PartitionSpec(), arrays)
    return jax.tree.map(lambda x: PartitionSpec(*[None] * (x.ndim - 1), layout.axes), arrays)


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
    for leaf, shard in zip(layout.leaves, shards, strict=True):
        flat = shard.reshape(-1)
        if leaf.part is None:
            flat = jnp.pad(flat, (0, leaf.length * layout.num_devices - len(flat)))
            flat = jax.lax.dynamic_slice_in_dim(flat, jax.lax.axis_index(axes) * leaf.length, leaf.length)
        elif repeated := _other_axes(axes, leaf.part):
            # One device of those that have the same numbers holds them.
            flat = jnp.where(jax.lax.axis_index(repeated) == 0, flat, 0)
        parts.append(flat)
    return one_or_all([numerics.ravel([parts[i] for i in group]) for group in layout.arrays])


def _to_shards(layout: Layout, vector: Vector) -> list[Array]:
    """The shards of the leaves on one device, from its part of a vector; a leaf that was cut is whole again."""
    axes = layout.axes
    assert axes is not None
    assert layout.mesh is not None
    shards = []
    for array, group in _grouped(layout, vector):
        start = 0
        for number in group:
            leaf = layout.leaves[number]
            part = jax.lax.slice_in_dim(array, start, start + leaf.length)
            start += leaf.length
            if leaf.part is None:
                part = jax.lax.all_gather(part, axes, tiled=True)[: math.prod(leaf.shape)].reshape(leaf.shape)
            else:
                if repeated := _other_axes(axes, leaf.part):
                    part = jax.lax.psum(part, repeated)
                part = part.reshape(NamedSharding(layout.mesh, leaf.part).shard_shape(leaf.shape))
            shards.append(part)
    return shards


def _drawn(layout: Layout, leaf: Leaf, offset: int, position: int, numbers: Callable[[int, int], Any]) -> np.ndarray:
    """What the device at `position` holds of a leaf, whose first number in the tree is `offset`."""
    size = math.prod(leaf.shape)
    if layout.mesh is None or leaf.part is None:
        start, stop = (min(at * leaf.length, size) for at in (position, position + 1))
        drawn = [numbers(offset + a, offset + b) for a, b in _runs(start, stop, _DRAWN)]
        return np.concatenate([*drawn, np.zeros(leaf.length - (stop - start), layout.dtype)])
    axes = layout.axes
    assert axes is not None
    place = np.unravel_index(position, layout.mesh.devices.shape)
    where = dict(zip(axes, place, strict=True))
    if any(where[axis] for axis in _other_axes(axes, leaf.part)):
        return np.zeros(leaf.length, layout.dtype)
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


def _grouped(layout: Layout, vector: Vector) -> list[tuple[Array, tuple[int, ...]]]:
    """The arrays of a vector with the leaves that each holds."""
    return list(zip(vector if isinstance(vector, tuple) else (vector,), layout.arrays, strict=True))


def one_or_all(arrays: list[Any]) -> Vector:
    """The vector of its arrays."""
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
