"""Checkpoints by orbax: complete or absent, restored only into a state of the same tree, shapes and dtypes."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from hessflat.utils.errors import InputError
from hessflat.utils.files import full_disk_named


class DamagedError(InputError):
    """A checkpoint that cannot be read."""


def open_folder(folder: Path) -> ocp.CheckpointManager:
    """The checkpoints of one run; close it when done. Nothing is ever deleted by itself."""
    return _manager(folder, ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False))


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of a run that may still be running, for reading alone."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; train the run first")
    manager = _manager(folder, ocp.CheckpointManagerOptions(create=False, read_only=True))
    try:
        yield manager
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, step: int, state: Any) -> None:
    """Save `state`. It counts as saved once it is complete, so a kill at any moment leaves the one before."""
    with full_disk_named(manager.directory):
        manager.save(step, args=ocp.args.StandardSave(state), force=True)


def steps(manager: ocp.CheckpointManager) -> list[int]:
    """Steps with a complete checkpoint, in increasing order."""
    return sorted(manager.all_steps())


def restore(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """The state saved at `step`, in the form of `like`, a tree of `jax.ShapeDtypeStruct`.

    Raises `DamagedError` where it cannot be read, and `InputError` where it holds another tree, other shapes or other
    dtypes: orbax would cast a dtype silently and answer a wrong shape with pages of text.
    """
    where = f"checkpoint {Path(manager.directory) / str(step)}"
    if not (Path(manager.directory) / str(step)).is_dir():
        raise InputError(f"{where} is gone, replaced by a later one of the run that is under way; try again")
    try:
        stored = shapes(manager.item_metadata(step).tree)
    except Exception as error:  # orbax raises whatever its storage layer raised
        raise _damaged(where, error) from error
    if differing := difference(stored, shapes(like)):
        name, found, wanted = differing
        raise InputError(
            f"{where} is of another model or optimiser: {name} should be {wanted}, is {found}; "
            "use the configuration it was made with"
        )
    try:
        return manager.restore(step, args=ocp.args.StandardRestore(like))
    except Exception as error:
        raise _damaged(where, error) from error


def set_aside(manager: ocp.CheckpointManager, step: int) -> None:
    """Rename the checkpoint of `step` to `damaged-STEP`, so that it no longer counts as one."""
    folder = Path(manager.directory)
    shutil.rmtree(folder / f"damaged-{step}", ignore_errors=True)
    (folder / str(step)).rename(folder / f"damaged-{step}")
    manager.reload()


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    # The handler is named so that the shapes in a checkpoint can be read before anything is restored.
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler())


def _damaged(where: str, error: Exception) -> DamagedError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return DamagedError(f"{where} is damaged ({reason}); delete that folder, or use another checkpoint")


def shapes(tree: Any) -> dict[str, str]:
    """`float32[64, 100]` by the slash-separated path of each leaf; dictionaries and named tuples read alike."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def difference(shapes: Mapping[str, str], others: Mapping[str, str]) -> tuple[str, str, str] | None:
    """The first leaf in which two trees differ, with what it is in each."""
    for name in sorted({*shapes, *others}):
        if shapes.get(name) != others.get(name):
            return name, shapes.get(name, "absent"), others.get(name, "absent")
    return None
