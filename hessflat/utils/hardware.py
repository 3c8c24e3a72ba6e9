"""The device that arrays lie on, and how much memory it has, asked before something large is made."""

import math
import os
from pathlib import Path
from typing import Any

import jax

from hessflat.utils import compat
from hessflat.utils.errors import InputError


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
    device = jax.devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics:
        result: int = statistics["bytes_limit"] - statistics["bytes_in_use"]
        return result
    return min(_free_in_machine(), _free_in_container())


def num_bytes(tree: Any) -> int:
    """Bytes in the leaves of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def require_bytes(needed: int, what: str, instead: str) -> None:
    """Refuse what does not fit.

    Raises:
        InputError: `needed` bytes are not free; the line says `what` needs them and what to do `instead`.
    """
    free = free_bytes()
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
