"""Where vectors lie: on one device, or in parts on the devices of a mesh, as the parameters and the data do."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hessflat.curvature import numerics
from hessflat.utils import hardware
from hessflat.utils.errors import InputError

# The most numbers that an array of a vector has on one device.
_LONGEST = 2**30


class Leaf(NamedTuple):
    """A leaf of the tree, and its numbers in a vector."""

    shape: tuple[int, ...]
    dtype: Any
    place: PartitionSpec  # of the leaf of the parameters
    part: PartitionSpec | None  # by which devices share its numbers; None where they are cut into equal runs, flat

    @property
    def entry(self) -> PartitionSpec:
        """The partition in which the leaf is made a part of vectors, and comes from them."""
        return PartitionSpec() if self.part is None else self.part


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the numbers of a vector lie. It is static: compiled programs are known by it."""

    structure: Any
    leaves: tuple[Leaf, ...]
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
    def like(self) -> Any:
        """Shapes and types of vectors as trees."""
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, shapes)

    @property
    def lengths(self) -> list[int]:
        """How many numbers of each leaf a device holds."""
        return [self.length_of(leaf) for leaf in self.leaves]

    @property
    def arrays(self) -> list[list[int]]:
        """The leaves that each array of a vector holds, by their numbers."""
        groups: list[list[int]] = [[]]
        taken = 0
        for number, length in enumerate(self.lengths):
            if groups[-1] and taken + length > _LONGEST:
                groups, taken = [*groups, []], 0
            groups[-1].append(number)
            taken += length
        return groups

    @property
    def array_lengths(self) -> list[int]:
        """How many numbers of each array of a vector a device holds."""
        lengths = self.lengths
        return [sum(lengths[number] for number in group) for group in self.arrays]

    @property
    def local_size(self) -> int:
        """How many numbers of a vector a device holds."""
        return sum(self.lengths)

    @property
    def spec(self) -> PartitionSpec:
        """The partition of an array of a vector."""
        return PartitionSpec() if self.mesh is None else PartitionSpec(self.axes)

    @property
    def rows_spec(self) -> PartitionSpec:
        """The partition of an array with the same part of several vectors."""
        return PartitionSpec() if self.mesh is None else PartitionSpec(None, self.axes)

    def length_of(self, leaf: Leaf) -> int:
        """How many numbers of a leaf a device holds."""
        size = math.prod(leaf.shape)
        if self.mesh is None:
            return size
        if leaf.part is None:
            return math.ceil(size / self.mesh.size)
        return size // math.prod(int(self.mesh.shape[axis]) for axis in _axes(leaf.part))


def layout_for(params: Any, data: Any = ()) -> Layout:
    """The layout of vectors for `params`, measured over the arrays of `data`.

    The mesh is that of the parameters where any of them is spread or repeated over devices, else that of the data. A
    leaf that is spread over some axes of it is shared over the others too, along axes of the leaf that divide. A leaf
    that is whole on every device is cut into one run a device.

    Raises:
        InputError: parameters, or parameters and data, on different meshes.
    """
    leaves, structure = jax.tree.flatten(params)
    mesh = mesh_of("params", leaves)
    other = mesh_of("data", jax.tree.leaves(data))
    if mesh is not None and other is not None and mesh != other:
        raise InputError(
            f"params and data must be on one mesh of devices, got {_shown(mesh)} and {_shown(other)}; put both on one"
        )
    mesh = mesh or other
    dtype = jnp.promote_types(numerics.common_dtype(params), jnp.float32)
    return Layout(structure, tuple(_leaf(leaf, mesh) for leaf in leaves), jnp.dtype(dtype), mesh)


def is_partitioned(*trees: Any) -> bool:
    """Whether any array of `trees` is spread over devices, so that none of them has it whole."""
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(trees) if not numerics.any_traced(leaf)]
    return any(sharding is not None and not sharding.is_fully_replicated for sharding in shardings)


def on_mesh(array: Any, mesh: Mesh) -> Any:
    """An array, or the shape of one, on the devices of `mesh`: as it lies, or whole on each if it is elsewhere."""
    if isinstance(array.sharding, NamedSharding) and array.sharding.mesh == mesh:
        return array
    whole = NamedSharding(mesh, PartitionSpec())
    return array.update(sharding=whole) if numerics.any_shapes(array) else hardware.placed(array, whole)


def _leaf(leaf: Any, mesh: Mesh | None) -> Leaf:
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    sharding = getattr(leaf, "sharding", None)
    if mesh is None or not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
        return Leaf(leaf.shape, wide, PartitionSpec(), None)
    place = PartitionSpec(*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec)))
    return Leaf(leaf.shape, wide, place, _shared(leaf.shape, place, mesh))


def _shared(shape: tuple[int, ...], place: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    """`place`, and over the axes of the mesh that it does not have as well, as far as the shape divides."""
    parts = [_tuple(one) for one in place]
    for axis in other_axes(tuple(mesh.axis_names), place):
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


def other_axes(axes: tuple[str, ...], spec: PartitionSpec) -> tuple[str, ...]:
    """The axes of the mesh that a partition does not have."""
    return tuple(axis for axis in axes if axis not in _axes(spec))


def mesh_of(what: str, leaves: list[Any]) -> Any:
    """The mesh of several devices that arrays or shapes lie on; None where there is none.

    Raises:
        InputError: several.
    """
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves if not numerics.any_traced(leaf)]
    meshes = {one.mesh for one in shardings if isinstance(one, NamedSharding) and one.mesh.size > 1}
    if len(meshes) > 1:
        raise InputError(f"all arrays of {what} must be on one mesh of devices, got {', '.join(map(_shown, meshes))}")
    return meshes.pop() if meshes else None


def _shown(mesh: Any) -> str:
    return "x".join(f"{name}={size}" for name, size in mesh.shape.items())
