"""What the numbers were taken on."""

import os
import platform
import re
from pathlib import Path
from typing import Any


def describe(device: str) -> dict[str, Any]:
    """The processor, its cores, memory in bytes, and the kind of device that computations ran on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory(),
        "system": platform.system(),
        "device": device,
    }


def slug(machine: dict[str, Any]) -> str:
    """A file name: the accelerator, or the processor and its cores."""
    on_cpu = machine["device"].lower() == "cpu"
    name = f"{machine['processor']} {machine['cores']} cores" if on_cpu else machine["device"]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
