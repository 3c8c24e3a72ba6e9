"""What of a machine each of several processes has to itself: cores of its processor, and GPUs.

JAX takes every GPU that it sees as soon as it computes anything. So a command that gives them to processes of its own
computes on the CPU itself, and each process sees its own GPUs alone.
"""

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax


class Place(NamedTuple):
    """Of one process."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; empty where there are none to share


def leave_gpus(workers: str) -> tuple[str, ...]:
    """The GPUs that processes of their own get, one a run: all, where there are several and `workers` is not 1.

    This process lets go of them then, so it must not have computed anything before.
    """
    found = visible_gpus(os.environ, (path.name for path in Path("/dev").glob("nvidia*")), _has_cuda())
    if len(found) < 2 or workers == "1":
        return ()
    jax.config.update("jax_platforms", "cpu")
    return found


def visible_gpus(environment: Mapping[str, str], devices: Iterable[str], has_cuda: bool) -> tuple[str, ...]:
    """The NVIDIA GPUs that JAX would take, as CUDA_VISIBLE_DEVICES names them.

    Args:
        environment: of the process; `JAX_PLATFORMS` and `CUDA_VISIBLE_DEVICES` count.
        devices: names in /dev; `nvidia0` and the like are GPUs, which CUDA counts from 0 whatever their numbers are.
        has_cuda: whether JAX has its plugin for CUDA.
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if not has_cuda or (platforms and not {"cuda", "gpu"} & set(platforms.split(","))):
        return ()
    if "CUDA_VISIBLE_DEVICES" in environment:
        return tuple(name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip())
    number = sum(re.fullmatch(r"nvidia\d+", name) is not None for name in devices)
    return tuple(map(str, range(number)))


def deal(count: int, cores: Sequence[int], gpus: Sequence[str], each: int) -> list[Place]:
    """Places for `count` processes: cores dealt in turn, all of them where there are too few, and `each` GPUs."""
    return [Place(tuple(cores[i::count] or cores), tuple(gpus[i * each : (i + 1) * each])) for i in range(count)]


def take(place: Place) -> None:
    """Keep this process to its place, before JAX looks for devices."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cores)
    if place.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)


def _has_cuda() -> bool:
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
