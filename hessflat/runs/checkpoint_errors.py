"""What is wrong with a checkpoint that cannot be opened, read or written, in the words of a line."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hessflat.utils.errors import DamagedError, InputError

# What the system says where a file is whole but cannot be read or written now.
_PASSING = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "Too many open files", "Cannot allocate memory", "OS error 24")


def unreadable(where: str, error: Exception) -> InputError:
    """Damage, but for what the system will not do now."""
    if isinstance(error, (MemoryError, PermissionError)) or any(words in str(error) for words in _PASSING):
        return InputError(f"cannot read {where}: {reason(error)}; mend that, then run the same command again")
    return DamagedError(f"{where} is damaged ({reason(error)})")


def reason(error: Exception) -> str:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO):
        if os.strerror(code) in str(error):
            return os.strerror(code)
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def set_aside(folder: Path, step: int) -> None:
    """Rename the checkpoint of `step` to `damaged-STEP`, so that it no longer counts as one."""
    shutil.rmtree(folder / f"damaged-{step}", ignore_errors=True)
    (folder / str(step)).rename(folder / f"damaged-{step}")


def unopenable(folder: Path, open_manager: Callable[[Path], Any]) -> list[int]:
    """The steps whose checkpoints `open_manager` does not open by themselves."""
    found = []
    for path in folder.glob("[0-9]*"):
        with tempfile.TemporaryDirectory() as alone:
            (Path(alone) / path.name).symlink_to(path.absolute())
            try:
                open_manager(Path(alone)).close()
            except (ValueError, TypeError, KeyError):
                found.append(int(path.name))
    return sorted(found)
