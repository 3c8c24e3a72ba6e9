"""The folder of prepared data sets: arrays in `<name>-<version>.npz` and what they are in `.json` beside.

The JSON file is written last and holds the checksum of the arrays, so a data set is there if and only if
its JSON file is. Runs read this folder and nothing else: no TensorFlow, no network, and none of TFDS's own form, whose
reading decodes every image again.
"""

import errno
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from hessflat.utils import processes
from hessflat.utils.errors import InputError, command
from hessflat.utils.files import checksum

_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def folder() -> Path:
    """`$HESSFLAT_DATA`, by default `~/.cache/hessflat/data`. It need not exist."""
    return Path(os.environ.get("HESSFLAT_DATA") or "~/.cache/hessflat/data").expanduser()


def prepared_names(cache: Path | None = None) -> list[str]:
    """The names of the data sets in the cache, sorted."""
    return sorted({name for name, _ in _entries(cache)})


def find(name: str, cache: Path | None = None) -> Path | None:
    """The JSON file of data set `name`, of its newest version where there are several, or None."""
    versions = [path for entry, path in _entries(cache) if entry == name]
    return max(versions, key=_version, default=None)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the facts behind the JSON file at `path`, checked against their checksum.

    Arrays are mapped: the disk is read where they are. Of several processes the one that writes checks them for all.
    """
    try:
        facts = json.loads(path.read_text())
        arrays = _mapped(path.with_suffix(".npz"))
        intact = not processes.is_writer() or checksum(arrays) == facts["sha256"]
        name = facts["name"]
    except PermissionError as error:
        raise InputError(f"cannot read {error.filename}: permission denied; check its owner and mode") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError):
        intact, name = False, _name(path)
    if not intact:
        raise InputError(
            f"cached data set {name!r} at {path.with_suffix('.npz')} is damaged; "
            f"run again: {command('data', 'prepare', name)}"
        )
    return arrays, facts


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive of NumPy's that is not compressed, of which nothing is read yet."""
    arrays = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            with archive.open(member) as header:
                shape, in_columns, dtype = _READ_HEADER[np.lib.format.read_magic(header)](header)
                length = header.tell()
            if member.compress_type != zipfile.ZIP_STORED or dtype.hasobject:
                raise ValueError(f"{member.filename} is not stored as numbers are")
            # In the file each member has a header of 30 bytes, its name, and more of a length that is said there.
            file.seek(member.header_offset + 26)
            names = np.frombuffer(file.read(4), "<u2").sum(dtype=int)
            offset = member.header_offset + 30 + int(names) + length
            order: Literal["C", "F"] = "F" if in_columns else "C"
            # Nothing cannot be mapped.
            empty = 0 in shape
            array = np.zeros(shape, dtype) if empty else np.memmap(path, dtype, "r", offset, shape, order)
            arrays[member.filename.removesuffix(".npy")] = np.asarray(array)
    return arrays


def write(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], cache: Path | None = None) -> Path:
    """Store `arrays` with `facts` (at least `name` and `version`); returns the path of the JSON file.

    Each file is written under another name and renamed, so an interrupted write leaves the cache as it was.
    """
    cache = cache or folder()
    stem = f"{facts['name']}-{facts['version']}".replace("/", "-")
    facts = {**facts, "sha256": checksum(arrays)}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _replace(cache / f"{stem}.npz", lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        _replace(cache / f"{stem}.json", lambda file: file.write(json.dumps(facts, indent=1).encode() + b"\n"))
    except OSError as error:
        raise unwritable(error, cache) from None
    return cache / f"{stem}.json"


def unwritable(error: OSError, cache: Path) -> InputError:
    """The one line for a cache that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"no space left in {cache}; free some or set HESSFLAT_DATA to a folder on another disk")
    return InputError(f"cannot write to {cache}: {error.strerror or error}; set HESSFLAT_DATA to another folder")


def _replace(path: Path, write_to: Callable[[IO[bytes]], Any]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write_to(file)
        os.chmod(temporary, 0o644)  # mkstemp gives 0o600, and a cache may be shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _entries(cache: Path | None) -> list[tuple[str, Path]]:
    return [(_name(path), path) for path in sorted((cache or folder()).glob("*.json"))]


def _name(path: Path) -> str:
    """The name inside a JSON file, or from the file's own name where the inside cannot be read."""
    try:
        return str(json.loads(path.read_text())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.stem.rsplit("-", 1)[0]


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in path.stem.rsplit("-", 1)[-1].split("."))
