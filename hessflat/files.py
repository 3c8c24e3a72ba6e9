"""Files that are either whole or absent, and the one line for a disk that is full."""

import contextlib
import errno
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hessflat.errors import InputError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a file beside `path`, wait for the disk, then rename: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with full_disk_named(path):
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


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn "no space left" and its kin into one line that says where."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise InputError(f"cannot write {path}: {error.strerror}; free space or choose another folder") from error
        raise
