"""Vectors and trees on the host: the numbers of a vector in the order of the tree, the part that a process holds, sums.

Of a vector over several processes each has the part of its devices, and of what is summed every process adds its own.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from hessflat.curvature import numerics, vectors
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils import compat, hardware, processes


def to_flat(layout: Layout, vector: Vector) -> np.ndarray:
    """The numbers [P] of a vector on the host, in the order of the tree, in the vector's own type."""
    return flat(vectors.to_tree(_of_type(layout, jax.tree.leaves(vector)[0].dtype), vector))


def from_flat(layout: Layout, numbers: np.ndarray) -> Vector:
    """The inverse of `to_flat`."""
    if layout.mesh is None:
        return from_part(layout, numbers)
    kept = _of_type(layout, numbers.dtype)
    leaves = jax.tree.leaves(numerics.unravel_on_host(kept.like, numbers))
    placed = [
        jax.make_array_from_callback(leaf.shape, NamedSharding(layout.mesh, leaf.entry), x.__getitem__)
        for leaf, x in zip(kept.leaves, leaves, strict=True)
    ]
    return vectors.from_tree(kept, jax.tree.unflatten(layout.structure, placed))


def flat(tree: Any) -> np.ndarray:
    """The leaves of a tree like the parameters one after the other, on the host of every process: [P]."""
    return np.concatenate([np.ravel(hardware.on_host(leaf)) for leaf in jax.tree.leaves(tree)])


def _of_type(layout: Layout, dtype: Any) -> Layout:
    dtype = jnp.dtype(dtype)
    return dataclasses.replace(layout, leaves=tuple(leaf._replace(dtype=dtype) for leaf in layout.leaves), dtype=dtype)


def part_of(vector: Vector) -> np.ndarray:
    """A copy [n] of what the devices of this process hold of a vector."""
    arrays = jax.tree.leaves(vector)
    parts = [np.asarray(shard.data) for array in arrays for shard in _own_shards(array)]
    return np.array(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def from_part(layout: Layout, numbers: np.ndarray) -> Vector:
    """The inverse of `part_of`."""
    if layout.mesh is None:
        cuts = np.cumsum(layout.lengths)[:-1]
        return vectors.one_or_all([jnp.asarray(part) for part in np.split(numbers, cuts)])
    arrays, start = [], 0
    sharding = NamedSharding(layout.mesh, PartitionSpec(layout.axes))
    for length in layout.lengths:
        shape, shards = (layout.num_devices * length,), []
        for device in _by_position(sharding.addressable_devices_indices_map(shape)):
            shards.append(jax.device_put(numbers[start : start + length], device))
            start += length
        arrays.append(jax.make_array_from_single_device_arrays(shape, sharding, shards))
    return vectors.one_or_all(arrays)


def inner(a: Any, b: Any) -> float:
    """The inner product of two trees that lie alike, in float64."""
    return _sum_of(lambda x, y: float(np.vdot(x, y)), a, b)


def squared_distance(a: Any, b: Any) -> float:
    """‖a − b‖² of two trees that lie alike, in float64."""
    return _sum_of(lambda x, y: float(np.sum((x - y) ** 2)), a, b)


def norm(combine: Callable[..., np.ndarray], *trees: Any) -> float:
    """The norm of what `combine` makes of the numbers of trees that lie alike, in float64."""
    return math.sqrt(_sum_of(lambda *parts: float(np.sum(combine(*parts) ** 2)), *trees))


def _sum_of(function: Callable[..., float], *trees: Any) -> float:
    """The sum of `function` over the shards of trees, one at a time: every process adds what its devices hold."""
    total = 0.0
    for leaves in zip(*map(jax.tree.leaves, trees), strict=True):
        for shards in zip(*(leaf.addressable_shards for leaf in leaves), strict=True):
            if shards[0].replica_id == 0:
                total += function(*(np.asarray(shard.data, np.float64) for shard in shards))
    return float(sum_over_processes(np.array(total), processes.spans(trees)))


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
