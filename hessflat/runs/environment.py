"""What a number depends on besides its configuration: versions, devices, cores, the commit of the code."""

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from hessflat.utils import compat

PACKAGES = ("hessflat", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """What a run's manifest says of the machine and the code. No host, user or address."""
    devices = jax.devices()
    return {
        "command": shlex.join(["python", "-m", *_module_and_arguments()]),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
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
