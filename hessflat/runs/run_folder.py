"""The folder of a run: its name, the files in it, and who may write to them.

    config.json      the settings, nested; those of builders that were not chosen are left out
    manifest.json    the format's version, status, times, versions, device, seeds, checksum of the data
    metrics.jsonl    one line for each measured step: `step`, `epoch` and numbers by name
    eval.jsonl       one line for each look at the whole training split, where a rule of `stop` needs it
    spectra/         arrays of a measured step, `<step>-<name>.npz`
    checkpoints/     states of training, by step
    measurements/    what `measure` added, a folder for each choice of settings

`metrics.jsonl` is written after the arrays of its step, so that a line's arrays are always there, the manifest after
the line, and a checkpoint after the manifest: what a checkpoint stands on is known to it. The manifest has SHA-256 of
every other file in `digests`, by name, and of itself in `digest`; a checkpoint has that of its leaves inside. What is
not as it was written is never read as if it were.

Readers take the keys and files that they know, so others may come without another version.
"""

import contextlib
import datetime
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from hessflat.utils.errors import DamagedError, FormatError, InputError, InUseError, command
from hessflat.utils.files import (
    file_digest,
    full_disk_named,
    read_lines,
    read_object,
    starts_with,
    sweep,
    write_atomically,
)

# Raised when a file or a key changes its meaning; `require_format` refuses every other version.
FORMAT = 1

# Of the files of a run, those that grow line by line, the folders of arrays, and how it ends for good.
GROWING = ("metrics.jsonl", "eval.jsonl")
ARRAYS = ("spectra", "correct")
FINISHED = ("done", "diverged")


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
        FormatError: the manifest says another version, or none.
    """
    version = manifest.get("format")
    if version != FORMAT:
        raise FormatError(
            f"{folder} is a run folder of format {version}, this code reads format {FORMAT}; move the folder away and "
            "train it again, or use the hessflat that wrote it"
        )


def read_config(folder: Path) -> dict[str, Any] | None:
    """The settings that the folder belongs to, None where there are none yet.

    Raises:
        DamagedError: they are not those that the run wrote.
    """
    recorded = read_manifest(folder).get("digests", {})  # another version's settings would be misread
    try:
        settings = read_object(folder / "config.json")
    except DamagedError as error:
        raise DamagedError(f"{error}; to mend it: {mending(folder, ['config.json'])}") from error
    if "config.json" in recorded and (
        settings is None or file_digest(folder / "config.json") != recorded["config.json"]
    ):
        problem = "gone" if settings is None else "altered"
        raise DamagedError(f"{folder / 'config.json'} is {problem}; to mend it: {mending(folder, ['config.json'])}")
    return settings


def reserve(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into a folder that is new or empty; refuse one that holds anything else."""
    # Our lock, and a half-written configuration that a killed process left, are no content.
    ours = (".lock", ".config.json.")
    if folder.is_dir() and not all(entry.name.startswith(ours) for entry in folder.iterdir()):
        raise InputError(f"{folder} is not empty and has no config.json; nothing was touched: move it away")
    write_config(folder, settings)


def remove_unbegun(folder: Path) -> None:
    """Remove the folder of a run that has not begun, and that of its experiment where it is the last one in it."""
    if (folder / "manifest.json").exists() or _files(folder, GROWING):
        return
    for name in ("config.json", ".lock"):
        (folder / name).unlink(missing_ok=True)
    for place in (folder / "checkpoints", folder, folder.parent):
        with contextlib.suppress(OSError):  # what else is there stays
            place.rmdir()


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings that the folder belongs to."""
    write_atomically(folder / "config.json", json.dumps(settings, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        InUseError: another process holds it.
    """
    with full_disk_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Never by a file's mere presence, which would outlive a process that is killed.
        lock = filelock.FileLock(folder / ".lock", timeout=0.5, fallback_to_soft=False)  # `is_live` is quicker
        try:
            held = lock.acquire()
        except filelock.Timeout as error:
            raise InUseError(f"{folder} is in use by another process; wait for it, or stop it first") from error
    with held:
        yield


def is_live(folder: Path) -> bool:
    """Whether a process holds the folder. Nobody may be kept from it by the question, so that it is let go at once."""
    if not (folder / ".lock").is_file():
        return False
    lock = filelock.FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError:  # a folder that cannot be written is not being written
        return False
    lock.release()
    return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, or an empty one where there is none yet.

    Raises:
        DamagedError: it is not as it was written.
        InputError: it is of another version of the format.
    """
    try:
        manifest = read_object(folder / "manifest.json")
        if manifest is None:
            return {}
        require_format(folder, manifest)
        if manifest.pop("digest", None) != _digest(manifest):
            raise DamagedError(f"{folder / 'manifest.json'} is damaged (its digest is another)")
    except DamagedError as error:
        raise DamagedError(f"{error}; to mend it: {mending(folder)}") from error
    return manifest


def write_manifest(folder: Path, **changes: Any) -> None:
    """Merge `changes` into the manifest."""
    write_atomically(folder / "manifest.json", with_digest({"format": FORMAT} | read_manifest(folder) | changes))


def with_digest(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest, its own digest with it."""
    return json.dumps({**manifest, "digest": _digest(manifest)}, indent=1, sort_keys=True) + "\n"


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do: trained to the end, or diverged, and nothing of it damaged."""
    try:
        manifest = read_manifest(folder)
    except DamagedError:
        return False
    return manifest.get("status") in FINISHED and not _differing(folder, manifest)


def problems(folder: Path) -> dict[str, str]:
    """Which files of a run are `gone`, `altered` or `not of this run`, compared with its manifest.

    While a run is not finished, lines may follow those that the manifest knows: they are newer than any checkpoint.
    """
    try:
        return _differing(folder, read_manifest(folder))
    except DamagedError:
        return {"manifest.json": "altered"}


def _differing(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    if not manifest:
        return {"manifest.json": "gone"} if _files(folder, GROWING) else {}
    if "digests" not in manifest:
        return {"manifest.json": "altered"}
    recorded, found = manifest["digests"], {}
    finished = manifest.get("status") in FINISHED
    for name, digest in recorded.items():
        path = folder / name
        try:
            same = starts_with(path, digest) if name in GROWING and not finished else file_digest(path) == digest
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            found[name] = "gone"
            continue
        if not same:
            found[name] = "altered"
    return found | {name: "not of this run" for name in _files(folder) if finished and name not in recorded}


def read_whole(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the settings of a run none of whose files differs from what the run left.

    Raises:
        DamagedError: the files that do, and the command that mends them.
    """
    for attempt in range(5):
        manifest = read_manifest(folder)
        found = _differing(folder, manifest)
        if not found:
            return manifest, read_object(folder / "config.json") or {}
        if not is_live(folder):
            break
        time.sleep(0.1 * attempt)  # its process may have been between two files
    raise DamagedError(f"{folder} is damaged: {in_words(found)}; to mend it: {mending(folder, found)}")


def in_words(found: Mapping[str, str]) -> str:
    """`metrics.jsonl is gone and 3 more`."""
    (name, problem), *more = found.items()
    return f"{name} is {problem}" + (f" and {len(more)} more" if more else "")


def mending(folder: Path, found: Collection[str] = ()) -> str:
    """The command that mends a damaged run; where its settings are among what is `found`, the one that made it."""
    if "config.json" in found:
        with contextlib.suppress(DamagedError):
            return str(read_manifest(folder).get("command", "the command that made it"))
        return "the command that made it"
    return command("train", f"--run={folder}")


def seal(folder: Path, **changes: Any) -> None:
    """Merge `changes` into the manifest of a run that is under way, with the digests of what it has written.

    Raises:
        DamagedError: something that was there before is gone or altered.
    """
    recorded = require_there(folder).get("digests", {})
    digests = {}
    for name in _files(folder):
        if name not in GROWING:
            digests[name] = recorded.get(name) or file_digest(folder / name)
        elif name not in recorded or starts_with(folder / name, recorded[name]):
            digests[name] = file_digest(folder / name)
    if lost := sorted(recorded.keys() - digests.keys()):
        raise DamagedError(
            f"{folder / lost[0]} was removed or altered while its run was under way; the same command mends it"
        )
    write_manifest(folder, digests=digests, **changes)


def require_there(folder: Path) -> dict[str, Any]:
    """The manifest of a run that is under way.

    Raises:
        DamagedError: there is none any more.
    """
    if not (folder / "manifest.json").is_file():
        raise DamagedError(
            f"{folder} was moved or emptied while its run was under way; move it back, or run the same command anew"
        )
    return read_manifest(folder)


def digests_until(folder: Path, step: int | None) -> dict[str, str]:
    """The digests of what stays of a run that goes on from `step`, or from its beginning; see `cut_back`."""
    recorded = read_manifest(folder).get("digests", {})
    digests = {}
    for name in _files(folder):
        if name in GROWING and step is not None:
            kept = kept_lines(folder / name, lambda logged: logged <= step)
            digests[name] = hashlib.sha256(kept.encode()).hexdigest()
        elif name not in GROWING and ("/" not in name or (step is not None and step_of(name) <= step)):
            digests[name] = recorded.get(name) or file_digest(folder / name)
    return digests


def cut_back(folder: Path, step: int | None) -> None:
    """Drop what was written after `step`, or everything. The manifest must know before, lest this looks like damage."""
    for place in (folder, *(folder / name for name in ARRAYS)):
        sweep(place)
    for name in _files(folder):
        if name in GROWING and step is not None:
            keep_lines(folder / name, lambda logged: logged <= step)
        elif name in GROWING or ("/" in name and (step is None or step_of(name) > step)):
            (folder / name).unlink()


def step_of(name: str) -> int:
    """The step that the arrays or the checkpoint of this name belong to."""
    number = re.match(r"\d+", name.rpartition("/")[2])
    return int(number[0]) if number else 0


def _files(folder: Path, single: tuple[str, ...] = ("config.json", "settings.json", *GROWING)) -> list[str]:
    """What a run has written besides its manifest and its checkpoints, which have digests of their own."""
    found = [name for name in single if os.path.isfile(folder / name)]
    for place in ARRAYS:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found += [f"{place}/{name}" for name in sorted(os.listdir(folder / place)) if not name.startswith(".")]
    return found


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


def keep_lines(path: Path, keep: Callable[[int], bool] = lambda step: True) -> None:
    """Drop what was logged at steps that are not to be kept, and an unfinished last line."""
    if path.exists():
        write_atomically(path, kept_lines(path, keep))


def kept_lines(path: Path, keep: Callable[[int], bool]) -> str:
    """The complete lines of the steps that are to be kept."""
    records = read_lines(path)
    return "".join(
        f"{line}\n" for line, record in zip(path.read_text().split("\n"), records, strict=False) if keep(record["step"])
    )
