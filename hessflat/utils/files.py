"""Files that are either whole or absent, and the one line for a disk that is full."""

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

from hessflat.utils.errors import InputError

_UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None where there is no file; anything else in it is named in one line."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); move its folder away and run again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged (it holds no JSON object); move its folder away and run again")
    return content


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
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


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
