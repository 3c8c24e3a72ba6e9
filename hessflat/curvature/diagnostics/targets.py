"""Accelerators that a plan may be for, and the devices of a topology of them, none of which need be there.

Speeds are those that vendors state, which no program exceeds and few reach:

- H100, H200: NVIDIA's data sheets of the SXM forms, dense, and the "NVIDIA H100 Tensor Core GPU Architecture" paper for
  single precision without tensor cores. NVLink and InfiniBand (ConnectX-7, 400 Gb/s for each of the eight GPUs of a
  DGX) are one way. Memory: the size that XLA's description of the H100 states; that of NVIDIA for the H200.
- TPU v5e, v6e: docs.cloud.google.com/tpu/docs/v5e and v6e; half of the bidirectional bandwidth between chips. A product
  of float32 matrices takes six passes of bfloat16 at "highest", three at "high" (JAX's `jax.lax.Precision`).

Latencies are stated by nobody. Those here are of the order that is commonly measured, and are assumptions: of starting
one kernel from a recorded graph on a GPU, and of one collective.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from hessflat.utils import compat
from hessflat.utils.errors import InputError, in_one_line, nearest, shown

# XLA's description of a GPU, as far as compiling needs it; the sizes are those of compute capability 9.0.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {memory_rate:.0f}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory_bytes}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{title}"
"""


_CUDA_PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt")


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a vendor states of one chip, and what is assumed; bytes, and operations or bytes a second."""

    title: str
    platform: str  # that programs are lowered for
    memory_bytes: int
    usable: float  # of the memory: what JAX takes of a GPU by default, and an assumption for TPUs
    flops: Mapping[str, float]  # of products of float32 matrices, by what `numerics.precision_on` calls the precision
    memory_rate: float
    network_rate: float  # out of one chip to its neighbours
    outer_rate: float  # out of one chip to another node; where there are no nodes, the same
    node: int  # chips that are neighbours; 0 where all are
    kernel_seconds: float
    collective_seconds: float


def _gpu(title: str, memory_bytes: int, memory_rate: float) -> Chip:
    flops = {"highest": 66.9e12, "tensorfloat32": 494.7e12}
    return Chip(title, "cuda", memory_bytes, 0.75, flops, memory_rate, 450e9, 50e9, 8, 2e-6, 1e-5)


def _tpu(title: str, memory_bytes: int, bfloat16: float, memory_rate: float, network_rate: float) -> Chip:
    flops = {"highest": bfloat16 / 6, "bfloat16_3x": bfloat16 / 3, "bfloat16": bfloat16}
    return Chip(title, "tpu", memory_bytes, 0.9, flops, memory_rate, network_rate, network_rate, 0, 5e-7, 5e-6)


CHIPS: Mapping[str, Chip] = {
    "h100": _gpu("NVIDIA H100 80GB HBM3", 84_978_434_048, 3.35e12),
    "h200": _gpu("NVIDIA H200 141GB HBM3e", 141_000_000_000, 4.8e12),
    "v5e": _tpu("TPU v5e", 16_000_000_000, 197e12, 819e9, 200e9),
    "v6e": _tpu("TPU v6e", 32_000_000_000, 918e12, 1638e9, 400e9),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of chips of one kind, and the devices that stand for them in a compilation."""

    topology: str
    chip: Chip
    devices: tuple[Any, ...]


def parse(topology: Any) -> tuple[str, Chip, tuple[int, ...]]:
    """The kind of chip that `"h100:64"` or `"v5e:8x8"` names, and how many there are, or the sides of their grid.

    Raises:
        InputError: another form, an unknown chip, or a number of GPUs that fills no nodes.
    """
    name, _, size = topology.partition(":") if isinstance(topology, str) else ("", "", "")
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,3}){0,2}", size):
        raise InputError(f"topology must be CHIP:NUMBER, such as 'h100:8' or 'v5e:4x4', got {shown(topology)}")
    if name not in CHIPS:
        raise InputError(f"unknown chip {name!r} of topology {topology!r}; {nearest(name, CHIPS)}")
    chip, sides = CHIPS[name], tuple(map(int, size.split("x")))
    if chip.platform == "tpu" and len(sides) == 1:
        raise InputError(f"a topology of TPUs is a grid, such as {name}:4x4, got {topology!r}")
    if chip.platform == "cuda" and (len(sides) > 1 or (sides[0] > chip.node and sides[0] % chip.node)):
        raise InputError(
            f"a topology of GPUs is their number, up to {chip.node} or a multiple of it, such as {name}:64, "
            f"got {topology!r}"
        )
    return name, chip, sides


def why_not_installed(chip: Chip) -> str | None:
    """What has to be installed to compile for a chip, in one line; None where it is there."""
    module, requirements = {
        "cuda": ("jax_plugins.xla_cuda13", [f"{name}=={jax.__version__}" for name in _CUDA_PACKAGES]),
        "tpu": ("libtpu", [f"'{requirement_of_jax('libtpu')}'"]),
    }[chip.platform]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is not None:
        return None
    return f"compiling for {chip.title} needs its compiler, no card: pip install --no-deps {' '.join(requirements)}"


def requirement_of_jax(package: str) -> str:
    """The versions of an optional package that the installed JAX asks for: `libtpu==0.0.42.*`."""
    asked = (line.partition(";")[0].strip() for line in metadata.requires("jax") or [])
    return next((line for line in asked if re.match(rf"{package}\b", line)), package)


@functools.cache
def target(topology: str) -> Target:
    """The devices of a topology, to compile for.

    Raises:
        InputError: as `parse`; no compiler for the chip is installed, or it does not know the topology.
    """
    _, chip, sides = parse(topology)
    if missing := why_not_installed(chip):
        raise InputError(missing)
    number = math.prod(sides)
    # A compiler's own lines on programs that do not fit, which the plan says itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if chip.platform == "cuda":
            # Slices × hosts × devices.
            nodes, each = (number // chip.node, chip.node) if number > chip.node else (1, number)
            devices = compat.absent_devices(
                "cuda",
                "",
                target_config=_HOPPER.format(**dataclasses.asdict(chip)).strip(),
                topology=f"{nodes}x1x{each}",
            )
        else:
            # Otherwise libtpu asks the cloud's server of metadata what machine this is, and waits.
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
            single = {"chips_per_host_bounds": (1, 1, 1)} if number == 1 else {}
            devices = compat.absent_devices("tpu", topology, **single)
    except Exception as error:  # whatever the compiler has against it
        reason = in_one_line(error)
        if "lockfile" in reason:
            raise InputError(
                "another process compiles for TPUs, and only one can at a time; wait for it, or, if there is none, "
                "remove /tmp/libtpu_lockfile"
            ) from error
        raise InputError(f"no topology {topology!r}: {reason}; take another size") from error
    if len(devices) != number:
        raise InputError(f"JAX sees {len(devices)} devices in topology {topology!r}, not {number}; take another size")
    return Target(topology, chip, tuple(devices))
