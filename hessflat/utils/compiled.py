"""Compiled programs that are kept in a folder, for later processes."""

import os
from pathlib import Path

import jax

from hessflat.utils import compat
from hessflat.utils.errors import InputError, shown


def compile_cache(folder: str | os.PathLike[str]) -> None:
    """Keep every program that JAX compiles from now on in `folder`, and take those that are there from it.

    It is JAX's own persistent cache (`jax_compilation_cache_dir`), for all of this process, with small and quickly
    compiled programs too, of which a measurement makes several. A program is found again by the same code, shapes,
    options, device and versions of JAX; what is left over of others may be deleted at any time, and so may the folder.
    Nothing is kept unless this is called.

    Args:
        folder: made where it does not exist; `~` is the home folder.

    Raises:
        InputError: no path, or no folder that files can be made in.

    >>> import hessflat, tempfile
    >>> hessflat.compile_cache(tempfile.mkdtemp())  # a folder that stays, such as "~/.cache/programs"
    """
    if not isinstance(folder, str | os.PathLike) or not str(folder) or "\0" in str(folder):
        raise InputError(f"folder must be the path of a folder, got {shown(folder)}")
    path = Path(folder).expanduser().absolute()
    if why := why_not_made(path):
        raise InputError(f"programs cannot be kept in {path}: {why}; give another folder")
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    compat.look_for_compilation_cache()


def why_not_made(folder: Path) -> str | None:
    """Make a folder that files can be made in, or say what is against it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return str(error.strerror)
    return None if os.access(folder, os.W_OK) else "it cannot be written to"
