"""Files that are whole or absent, lines of JSON, digests, and the one line for a disk that is full."""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hessflat.utils.errors import DamagedError, InputError, in_one_line

_UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; see `write_atomically`."""
    for path in folder.glob(".*.*"):
        number = path.name.rpartition(".")[2]
        if number.isdecimal() and not _is_alive(int(number)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None where there is no file.

    Raises:
        DamagedError: anything else is in it.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({in_one_line(error)})") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; see who may read it") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is damaged (it holds no JSON object)")
    return content


def file_digest(path: Path) -> str:
    """SHA-256 of what a file holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def starts_with(path: Path, digest: str) -> bool:
    """Whether some first lines of a file have this SHA-256."""
    known = hashlib.sha256()
    for line in [b"", *path.read_bytes().splitlines(keepends=True)]:
        known.update(line)
        if known.hexdigest() == digest:
            return True
    return False


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
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{path}, line {len(records) + 1}, is damaged ({in_one_line(error)})") from error
    return records


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a file beside `path`, wait for the disk, then rename: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An uncompressed `.npz`, atomically."""
    write_atomically(path, array_bytes(arrays))


def array_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """What an uncompressed `.npz` of these arrays holds. Equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and contents: the same everywhere, unlike that of the file."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn "no space left" and its kin into one line that says where."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise InputError(f"cannot write {path}: {error.strerror}; free space or choose another folder") from error
        raise
