"""Devices: where arrays lie, how examples are spread over them, how much memory is free; and what machine this is.

Examples of a batch are spread over devices, everything else is on each of them. Numbers do not depend on how many
devices there are, but for rounding: XLA takes means and batch-norm statistics over the whole batch wherever its
examples lie, and random draws are those of one device.
"""

import math
import os
import platform as machine
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from hessflat.utils import compat, processes
from hessflat.utils.errors import InputError

AXIS = "examples"
PACKAGES = ("hessflat", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy", "scipy")


def make_mesh(num_devices: int) -> Mesh | None:
    """A mesh of the first `num_devices` devices. None where one is enough.

    0 takes all accelerators, and one CPU; with several processes all devices of each, for none may be left without.
    """
    available, several = jax.device_count(), jax.process_count() > 1
    if num_devices > available:
        raise InputError(f"config.devices must be at most {available}, the devices there are, got {num_devices}")
    if several and num_devices not in (0, available):
        raise InputError(
            f"config.devices must be 0 or {available}, the devices of all {jax.process_count()} processes, "
            f"got {num_devices}"
        )
    number = num_devices or (1 if jax.default_backend() == "cpu" and not several else available)
    if number == 1:
        return None
    return jax.make_mesh((number,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:number])


def shard_batch(batch: Any, mesh: Mesh | None) -> Any:
    """`batch`, inside a compiled function, with its examples over the devices; where they do not divide, some have one
    more.
    """
    if mesh is None:
        return batch
    place = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, place), batch)


def placement(num_devices: int, fsdp: bool) -> dict[str, int | str | bool]:
    """Where a run that asks for `num_devices` is placed: how many devices, of how many, of what platform.

    Where they are those of several processes, also of how many.
    """
    mesh, several = make_mesh(num_devices), jax.process_count()
    number = 1 if mesh is None else mesh.size
    where: dict[str, int | str | bool] = {
        "devices": number,
        "of": jax.device_count(),
        "platform": jax.default_backend(),
    }
    where |= {"fsdp": True} if fsdp and mesh is not None else {}
    return where | ({"processes": several} if several > 1 else {})


def shardings(tree: Any, mesh: Mesh | AbstractMesh | None, fsdp: bool) -> Any:
    """Where the leaves of a training state lie: whole on every device, or, with `fsdp`, spread over them.

    A leaf is spread along its longest axis that the devices divide; one without is whole.
    """

    def of(leaf: Any) -> Sharding:
        if mesh is None or not fsdp:
            return everywhere(mesh)
        axes = [i for i, length in enumerate(leaf.shape) if length and length % mesh.size == 0]
        longest = max(axes, key=lambda i: leaf.shape[i], default=None)
        spec = PartitionSpec() if longest is None else PartitionSpec(*[None] * longest, AXIS)
        return NamedSharding(mesh, spec)

    return jax.tree.map(of, tree)


def shard_state(state: Any, mesh: Mesh | None, fsdp: bool) -> Any:
    """`state`, inside a compiled function, as `shardings` has it; as it is where it is whole."""
    if mesh is None or not fsdp:
        return state
    return jax.lax.with_sharding_constraint(state, shardings(state, mesh, fsdp))


def everywhere(mesh: Mesh | AbstractMesh | None) -> Sharding:
    """Where an array lies that is whole on every device of the mesh."""
    return SingleDeviceSharding(jax.devices()[0]) if mesh is None else NamedSharding(mesh, PartitionSpec())


def place_state(state: Any, mesh: Mesh | None, fsdp: bool) -> Any:
    """A training state as `shardings` has it."""
    return state if mesh is None else jax.tree.map(placed, state, shardings(state, mesh, fsdp))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of `tree`, whole, on every device of the mesh."""
    return tree if mesh is None else placed(tree, everywhere(mesh))


def shard_examples(arrays: Any, mesh: Mesh | None) -> Any:
    """`arrays` with their examples over the devices where they divide, and whole on each where they do not."""
    if mesh is None:
        return arrays
    count = len(jax.tree.leaves(arrays)[0])
    spec = PartitionSpec(AXIS) if count % mesh.size == 0 else PartitionSpec()
    return placed(arrays, NamedSharding(mesh, spec))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PaddedExamples(Mapping[str, jax.Array]):
    """Arrays [N, ...] by name, over devices that do not divide N.

    JAX spreads no such array from one compiled function to the next. So each is held with zeros after its last
    example. Inside a compiled function taking the examples from it moves nothing.
    """

    padded: dict[str, jax.Array]
    num_examples: int = field(metadata={"static": True})

    def __getitem__(self, name: str) -> jax.Array:
        return self.padded[name][: self.num_examples]

    def __iter__(self) -> Iterator[str]:
        return iter(self.padded)

    def __len__(self) -> int:
        return len(self.padded)


def hold_examples(arrays: dict[str, np.ndarray], mesh: Mesh) -> Mapping[str, jax.Array]:
    """Arrays [N, ...] of the host with their examples over the devices, whatever their number.

    Each process reads the rows of its own devices alone.
    """
    count, place = len(next(iter(arrays.values()))), NamedSharding(mesh, PartitionSpec(AXIS))
    rows = -(-count // mesh.size) * mesh.size

    def place_padded(host: np.ndarray) -> jax.Array:
        def own(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            part = host[start:stop]
            return np.concatenate([part, np.zeros((stop - start - len(part), *host.shape[1:]), host.dtype)])

        return jax.make_array_from_callback((rows, *host.shape[1:]), place, own)

    if rows == count:
        return placed(arrays, place)  # type: ignore[no-any-return]
    return PaddedExamples({name: place_padded(host) for name, host in arrays.items()}, count)


def first_examples(arrays: Mapping[str, jax.Array], count: int) -> dict[str, jax.Array]:
    """The first `count` examples of each array, without the others, also of `PaddedExamples`."""
    held = arrays.padded if isinstance(arrays, PaddedExamples) else arrays
    return {name: array[:count] for name, array in held.items()}


def placed(tree: Any, sharding: Sharding) -> Any:
    """The arrays of `tree` as `sharding` has them; of those that every process has whole each places its own part."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        if processes.spans(leaf):
            moved: jax.Array = jax.device_put(leaf, sharding)
            return moved
        # Not `jax.device_put`, which first sends an array around, to see that it is the same everywhere.
        host = np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def mesh_of(what: str, tree: Any) -> Mesh | None:
    """The mesh of several devices that the arrays or shapes of `tree` lie on; None where there is none.

    Raises:
        InputError: several.
    """
    meshes = {one.mesh for one in _shardings(tree) if isinstance(one, NamedSharding) and one.mesh.size > 1}
    if len(meshes) > 1:
        shown = ("x".join(f"{name}={size}" for name, size in mesh.shape.items()) for mesh in meshes)
        raise InputError(f"{what} must be on one mesh of devices, got {', '.join(sorted(shown))}; put all on one")
    return meshes.pop() if meshes else None  # type: ignore[return-value]


def is_partitioned(tree: Any) -> bool:
    """Whether any array of `tree` is spread over devices, so that none of them has it whole."""
    return any(sharding is not None and not sharding.is_fully_replicated for sharding in _shardings(tree))


def on_mesh(array: Any, mesh: Mesh) -> Any:
    """An array, or the shape of one, on the devices of `mesh`: as it lies, or whole on each if it is elsewhere."""
    if isinstance(array.sharding, NamedSharding) and array.sharding.mesh == mesh:
        return array
    whole = everywhere(mesh)
    return array.update(sharding=whole) if isinstance(array, jax.ShapeDtypeStruct) else placed(array, whole)


def _shardings(tree: Any) -> list[Any]:
    return [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree) if not compat.is_traced(leaf)]


def on_host(array: Any, dtype: Any = None) -> np.ndarray:
    """The whole of `array`, also where parts of it lie on devices of other processes, which then ask for it too."""
    if processes.spans(array) and not array.is_fully_replicated:
        array = compat.from_all_processes(array)
    return np.asarray(array, dtype)


def platform(tree: Any) -> str:
    """The platform, "cpu" say, of the devices that the arrays of `tree` lie on.

    For shapes, NumPy arrays and traced arrays it is that of the device on which JAX makes new arrays.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not compat.is_traced(leaf):
            return str(next(iter(leaf.devices())).platform)
    device = compat.setting("jax_default_device")
    if isinstance(device, str):
        return device
    return str((device or jax.devices()[0]).platform)


def free_bytes() -> int:
    """Bytes that are free now on the device that computations run on (on a CPU: in this machine, or its container)."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics:
        result: int = statistics["bytes_limit"] - statistics["bytes_in_use"]
        return result
    return free_host_bytes()


def free_host_bytes() -> int:
    """Bytes that are free now in this machine, or its container."""
    return min(_free_in_machine(), _free_in_container())


def num_bytes(tree: Any) -> int:
    """Bytes in the leaves of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def require_bytes(needed: int, what: str, instead: str, free: int | None = None, together: bool = False) -> None:
    """Refuse what does not fit into `free` bytes, by default those of the device; `together`, in all processes or none.

    Raises:
        InputError: `needed` bytes are not free; the line says `what` needs them and what to do `instead`.
    """
    if together:
        with processes.failing_together():
            return require_bytes(needed, what, instead, free)
    free = free_bytes() if free is None else free
    if needed > free:
        raise InputError(f"{what} needs {text(needed)} and {text(free)} are free; {instead}")


def text(count: float) -> str:
    """Bytes as people read them: `14.6 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def _free_in_machine() -> int:
    try:
        import psutil
    except ImportError:  # without it, all the memory that there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**63
    return int(psutil.virtual_memory().available)


def _free_in_container() -> int:
    folder = "/sys/fs/cgroup/"
    try:
        return int(Path(folder + "memory.max").read_text()) - int(Path(folder + "memory.current").read_text())
    except (OSError, ValueError):
        return 2**63


def environment() -> dict[str, Any]:
    """What a run's manifest says of the machine and the code. No host, user or address."""
    devices = jax.devices()
    return {
        "command": shlex.join(["python", "-m", *_module_and_arguments()]),
        "versions": {"python": machine.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        # How many cores a run has decides how its sums are rounded.
        "cores": len(cores()),
        "x64": compat.setting("jax_enable_x64"),
        "git_commit": git_commit(),
    }


def cores() -> list[int]:
    """The processor cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _module_and_arguments() -> list[str]:
    program = Path(sys.argv[0])
    return [program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:]]


def git_commit() -> str:
    """The commit of the code, with `+changes` where the working tree differs from it, or `unknown`."""
    here = Path(__file__).parent
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            process = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        answers.append(process.stdout.strip())
    return answers[0] + ("+changes" if answers[1] else "")
