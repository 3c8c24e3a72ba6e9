"""The folder of a run: its name, what belongs in it, who may write to it, and its manifest."""

import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax

from hessflat.utils import compat
from hessflat.utils.errors import InputError
from hessflat.utils.files import full_disk_named, read_object, write_atomically

PACKAGES = ("hessflat", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy", "scipy")


def folder_of(plain: Mapping[str, Any], identity: str, root: Path) -> Path:
    """`root/<experiment>/<name>-<identity>` of an effective configuration: what is swept in words, the rest hashed."""
    name = (
        f"{plain['scale']}-{plain['model']['name']}-{plain['data']['name'].replace('/', '_')}"
        f"-lr={plain['optim']['lr']:g}-l2={plain['optim']['l2']:g}-seed={plain['seed']}"
    )
    return root / plain["experiment"] / f"{name}-{identity}"


def read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration that the folder belongs to, None where there is none yet."""
    return read_object(folder / "config.json")


def claim(folder: Path, plain: Mapping[str, Any]) -> None:
    """Write the configuration into a folder that is new or empty; refuse one that holds anything else."""
    # Our lock, and a half-written configuration that a killed process left, are no content.
    ours = (".lock", ".config.json.")
    if folder.is_dir() and not all(entry.name.startswith(ours) for entry in folder.iterdir()):
        raise InputError(f"{folder} is not empty and has no config.json; nothing was touched: move it away")
    write_atomically(folder / "config.json", json.dumps(plain, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when the process ends, however it ends."""
    with full_disk_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Never by a file's mere presence, which would outlive a process that is killed.
        lock = filelock.FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
        try:
            held = lock.acquire()
        except filelock.Timeout as error:
            raise InputError(f"{folder} is in use by another process; wait for it, or stop it first") from error
    with held:
        yield


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, or an empty one where there is none yet."""
    return read_object(folder / "manifest.json") or {}


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do: trained to the end, or diverged."""
    return read_manifest(folder).get("status") in ("done", "diverged")


def write_manifest(folder: Path, **changes: Any) -> None:
    """Merge `changes` into the manifest."""
    write_atomically(
        folder / "manifest.json", json.dumps(read_manifest(folder) | changes, indent=1, sort_keys=True) + "\n"
    )


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """What a number depends on besides its configuration. No host, user or address."""
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
