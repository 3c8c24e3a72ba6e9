"""Data parallelism: the examples of a batch spread over devices, everything else on each of them.

Numbers do not depend on how many devices there are, but for rounding: XLA takes means and batch-norm statistics over
the whole batch wherever its examples lie, and random draws are those of one device.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hessflat.utils.errors import InputError

AXIS = "examples"


def make_mesh(num_devices: int) -> Mesh | None:
    """A mesh of the first `num_devices` devices; 0 takes all accelerators, and one CPU. None where one is enough."""
    available = jax.device_count()
    if num_devices > available:
        raise InputError(f"config.devices must be at most {available}, the devices there are, got {num_devices}")
    number = num_devices or (1 if jax.default_backend() == "cpu" else available)
    if number == 1:
        return None
    return jax.make_mesh((number,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:number])


def shard_batch(batch: Any, mesh: Mesh | None) -> Any:
    """`batch`, inside a compiled function, with its examples over the devices; as it is where they do not divide."""
    if mesh is None:
        return batch

    def place(x: jax.Array) -> jax.Array:
        whole = len(x) % mesh.size != 0
        spec = PartitionSpec() if whole else PartitionSpec(AXIS)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(place, batch)


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of `tree`, whole, on every device of the mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_examples(arrays: Any, mesh: Mesh | None) -> Any:
    """`arrays` with their examples over the devices where they divide, and whole on each where they do not."""
    if mesh is None:
        return arrays
    count = len(jax.tree.leaves(arrays)[0])
    spec = PartitionSpec(AXIS) if count % mesh.size == 0 else PartitionSpec()
    return jax.device_put(arrays, NamedSharding(mesh, spec))
