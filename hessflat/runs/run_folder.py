"""The folder of a run: its name, the files in it, and who may write to them.

    config.json      the settings, nested; those of builders that were not chosen are left out
    manifest.json    the format's version, status, times, versions, device, seeds, checksum of the data
    metrics.jsonl    one line for each measured step: `step`, `epoch` and numbers by name
    eval.jsonl       one line for each look at the whole training split, where a rule of `stop` needs it
    spectra/         arrays of a measured step, `<step>-<name>.npz`
    checkpoints/     states of training, by step
    measurements/    what `make measure` added, a folder for each choice of settings

`metrics.jsonl` is written after the arrays of its step, so that a line's arrays are always there. Readers take the keys
and files that they know, so these may come without another version: in a manifest `digests` (SHA-256 by file),
`placement` (how the state lies on devices) and `failed_measures` (measure, step, reason); as files `correct/<step>.npz`
(a bit for each test example).
"""

import contextlib
import datetime
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock

from hessflat.utils import compat
from hessflat.utils.errors import InputError
from hessflat.utils.files import full_disk_named, read_object, write_atomically

PACKAGES = ("hessflat", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy", "scipy")

# Raised when a file or a key changes its meaning; `require_format` refuses every other version.
FORMAT = 1


def path_for(settings: Mapping[str, Any], identity: str, root: Path) -> Path:
    """`root/<experiment>/<name>-<identity>` of nested settings: what is swept in words, the rest hashed."""
    name = (
        f"{settings['scale']}-{settings['model']['name']}-{settings['data']['name'].replace('/', '_')}"
        f"-lr={settings['optim']['lr']:g}-l2={settings['optim']['l2']:g}-seed={settings['seed']}"
    )
    return root / settings["experiment"] / f"{name}-{identity}"


def require_format(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a run folder that another version of the format wrote.

    Raises:
        InputError: the manifest says another version, or none.
    """
    version = manifest.get("format")
    if version != FORMAT:
        raise InputError(
            f"{folder} is a run folder of format {version}, this code reads format {FORMAT}; move the folder away and "
            "train it again, or use the hessflat that wrote it"
        )


def read_config(folder: Path) -> dict[str, Any] | None:
    """The settings that the folder belongs to, None where there are none yet."""
    read_manifest(folder)  # another version's settings would be misread
    return read_object(folder / "config.json")


def reserve(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into a folder that is new or empty; refuse one that holds anything else."""
    # Our lock, and a half-written configuration that a killed process left, are no content.
    ours = (".lock", ".config.json.")
    if folder.is_dir() and not all(entry.name.startswith(ours) for entry in folder.iterdir()):
        raise InputError(f"{folder} is not empty and has no config.json; nothing was touched: move it away")
    write_atomically(folder / "config.json", json.dumps(settings, indent=1, sort_keys=True) + "\n")


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
    manifest = read_object(folder / "manifest.json")
    if manifest is None:
        return {}
    require_format(folder, manifest)
    return manifest


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do: trained to the end, or diverged."""
    return read_manifest(folder).get("status") in ("done", "diverged")


def write_manifest(folder: Path, **changes: Any) -> None:
    """Merge `changes` into the manifest."""
    manifest = {"format": FORMAT} | read_manifest(folder) | changes
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON line and wait until it is on the disk. Values that are not finite are written as null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    with full_disk_named(path), path.open("a") as file:
        file.write(json.dumps(finite, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every complete JSON line; a last line that a killed process left unfinished is left out."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    try:
        for line in path.read_text().split("\n")[:-1]:
            record = json.loads(line)
            record["step"]  # every line says which step it is of
            records.append(record)
    except (ValueError, TypeError, KeyError) as error:
        number = len(records) + 1
        raise InputError(f"{path}, line {number}, is damaged ({error}); move its folder away and run again") from error
    return records


def keep_lines(path: Path, keep: Callable[[int], bool] = lambda step: True) -> None:
    """Drop what was logged at steps that are not to be kept, and an unfinished last line."""
    if path.exists():
        records = [record for record in read_lines(path) if keep(record["step"])]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


def environment() -> dict[str, Any]:
    """What a run's manifest says of the machine and the code. No host, user or address."""
    import jax  # readers of run folders need none of it

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
