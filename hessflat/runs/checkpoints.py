"""Checkpoints by Orbax, and where a run starts: from nothing, from its own last one, or from another run's.

A checkpoint is complete or absent, and is restored only into a state of the same tree, shapes and dtypes, on whatever
devices there are. It holds a digest of its leaves, its step and the configuration that it belongs to.

What TensorStore answers in JSON is never freed: the specification of an array, which Orbax asks for to tell its shape,
that of a store with all leaves in one file, and the counters that it reads where arrays of JAX are saved or restored.
So NumPy arrays are, each in files of its own, and shapes are asked for only where a checkpoint is refused; else a
process would grow by 0.3 MB a run.

Of several processes the writer alone opens, reads and writes checkpoints; the others have from it what it reads.

The module is long because what is saved and what is read back stand side by side.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from hessflat.measures import make_protocol
from hessflat.measures.sharpness import no_starts
from hessflat.runs import checkpoint_errors, run_folder
from hessflat.runs.checkpoint_errors import reason, unreadable
from hessflat.runs.jobs import Job, compiled, due_at_end, finished_manifest, named_run
from hessflat.runs.schema import UNNAMED, RunConfig, from_plain
from hessflat.training.step import TrainState
from hessflat.training.trainer import Trainer, make_hyperparams
from hessflat.utils import hardware, processes
from hessflat.utils.errors import DamagedError, InputError
from hessflat.utils.files import checksum, full_disk_named, read_object
from hessflat.utils.processes import by_writer

_LATE = 0.05  # seconds in which leaves come that nobody waits for
# Orbax waits for no other process.
_WRITER = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


class Position(NamedTuple):
    """What a checkpoint holds: a state of training, and where the next search for eigenvectors starts."""

    state: TrainState
    starts: Mapping[str, Any]


def initial_position(config: RunConfig, trainer: Trainer) -> Position:
    """Before the first step."""
    position = new_position(config, trainer.init(make_hyperparams(config)))
    return hardware.place_state(position, hardware.make_mesh(config.devices), config.fsdp)


def new_position(config: RunConfig, state: TrainState) -> Position:
    """A state for which no eigenvectors are known yet."""
    if "sharpness" not in due_at_end(config):
        return Position(state, {})
    return Position(state, no_starts(make_protocol(config.measure), state.params, state.batch_stats))


def stored_position(config: RunConfig, trainer: Trainer, manager: Any, step: int) -> Position:
    """What the checkpoint of `step` holds, which a run of `config` has left, on the devices of `config`."""
    state = jax.eval_shape(trainer.init, make_hyperparams(config))
    like = jax.eval_shape(partial(new_position, config), state)
    where = hardware.shardings(like, hardware.make_mesh(config.devices), config.fsdp)
    shape = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
    placed = jax.tree.map(shape, like, where)
    restored: Position = restore(manager, step, placed)
    return restored


@by_writer
def stored_config(folder: Path) -> RunConfig:
    """The configuration that a run folder belongs to; what is no part of it, such as its devices, is as by default."""
    stored = run_folder.read_config(folder)
    if stored is None:
        raise InputError(f"{folder} is not a run folder: it has no config.json; see the folders under runs/")
    return config_from(stored)


def config_from(settings: Mapping[str, Any]) -> RunConfig:
    """The configuration in what `config.json` holds."""
    return from_plain({name: value for name, value in settings.items() if name not in UNNAMED})


def start_position(job: Job, trainer: Trainer) -> Position:
    """`initial_position`, with the weights and statistics of another run where `train.init_from` names one.

    Without `@STEP` that run must be finished: what it ends with never changes, so a killed run starts there again.
    """
    position = initial_position(job.config, trainer)
    named = named_run(job, "train.init_from")
    if named is None:
        return position
    folder, at = named
    if not at:
        at = str(processes.from_writer(partial(finished_manifest, folder, "train.init_from"))["steps"])
    other = dataclasses.replace(stored_config(folder), devices=job.config.devices, fsdp=job.config.fsdp)
    with reading(folder / "checkpoints") as manager:
        step = chosen_steps(at, steps(manager), folder)[-1]
        state = stored_position(other, compiled(other).trainer, manager, step).state
    differing = difference(shapes(state.params), shapes(position.state.params))
    if differing:
        name, there, here = differing
        raise InputError(
            f"config.train.init_from: {folder} is of another model: {name} is {there} there and {here} here; "
            "use the same model and data shapes"
        )
    average = state.params if position.state.average else position.state.average
    state = position.state.replace(params=state.params, batch_stats=state.batch_stats, average=average)
    return position._replace(state=state)


def first_params(job: Job, trainer: Trainer) -> Any:
    """The weights of `job` before its first step, made anew."""
    return start_position(job, trainer).state.params


def latest_positions(
    jobs: Sequence[Job],
    trainer: Trainer,
    managers: Sequence[Any],
    note: Callable[[str], None],
    redo_from: int | None = None,
) -> tuple[list[Position], int | None]:
    """Where the jobs go on: at their beginning, with step None, or at the last step that all can be read back at.

    What a killed process saved for some of the jobs but not for all is made again, and so is what cannot be read. A run
    that is mended goes on from no later step than `redo_from`, and keeps the checkpoints after it.
    """
    while True:
        common = set.intersection(*(set(steps(manager)) for manager in managers))
        step = max((one for one in common if redo_from is None or one <= redo_from), default=None)
        for manager in managers:
            for newer in steps(manager):
                if redo_from is None and (step is None or newer > step):
                    delete(manager, newer)
        if step is None:
            return [start_position(job, trainer) for job in jobs], None
        positions = []
        for job, manager in zip(jobs, managers, strict=True):
            try:
                positions.append(stored_position(job.config, trainer, manager, step))
            except DamagedError as error:
                note(f"{error}; going on from the one before, or from the beginning")
                set_aside(manager, step)
        if len(positions) == len(jobs):
            return positions, step


@by_writer
def require_measured(folder: Path, step: int | None, expected: Sequence[int]) -> None:
    """Refuse to go on from `step` where a measurement up to it is not there."""
    if step is None:
        return
    logged = [record["step"] for record in run_folder.read_lines(folder / "metrics.jsonl")]
    missing = [stop for stop in expected if stop <= step and stop not in logged]
    if missing:
        raise DamagedError(
            f"{folder / 'metrics.jsonl'} should hold the measurements of steps {missing} that the checkpoint of step "
            f"{step} stands on, but holds {logged}; move {folder} away and run again"
        )


@contextlib.contextmanager
def open_all(jobs: Sequence[Job]) -> Iterator[list[Any]]:
    """The checkpoints of every job, open; each None in a process that is not the writer."""
    opened = processes.in_writer(lambda: [open_folder(job.folder / "checkpoints") for job in jobs])
    try:
        yield opened or [None] * len(jobs)
    finally:
        for manager in opened or ():
            manager.close()


def save_position(config: RunConfig, stays: Collection[int], manager: Any, step: int, position: Position) -> None:
    """Save a position, and remove all but the last few checkpoints that are not in `stays`.

    Raises:
        DamagedError: a checkpoint was removed since it was saved.
    """
    # All processes give what they hold, and one writes.
    _write_position(config, stays, manager, step, jax.tree.map(hardware.on_host, position))


@by_writer
def _write_position(config: RunConfig, stays: Collection[int], manager: Any, step: int, position: Position) -> None:
    for saved in steps(manager):
        if not (Path(manager.directory) / str(saved)).is_dir():
            raise DamagedError(
                f"{Path(manager.directory) / str(saved)} was removed while its run was under way; "
                "the same command mends it"
            )
    if step not in steps(manager):
        save(manager, step, position)
    replaceable = [saved for saved in steps(manager) if saved not in stays]
    for saved in replaceable[: -config.checkpoint.last]:
        delete(manager, saved)


def timer(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since this last said so, or since it was made, by the clock of the writer."""
    last = time.monotonic()

    @by_writer
    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


def chosen_steps(text: str, steps: Sequence[int], folder: Path) -> list[int]:
    """The steps that `all`, `last` or `0,100` mean among those with a checkpoint."""
    if not steps:
        raise InputError(f"{folder} has no complete checkpoint yet; wait for the first one, or train it")
    if text in ("all", "last"):
        return list(steps) if text == "all" else [steps[-1]]
    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--steps= or @ must be all, last or steps like 0,100, got {text!r}") from error
    for step in chosen:
        if step not in steps:
            raise InputError(f"no checkpoint of step {step} in {folder}; there are {', '.join(map(str, steps))}")
    return sorted(set(chosen))


def open_folder(folder: Path) -> ocp.CheckpointManager:
    """The checkpoints of one run; close it when done. Nothing is ever deleted by itself.

    A checkpoint that keeps orbax from opening the others is renamed to `damaged-STEP`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        create=False, enable_async_checkpointing=False, multiprocessing_options=_WRITER
    )
    try:
        return _manager(folder, options)
    except (ValueError, TypeError, KeyError):
        for step in checkpoint_errors.unopenable(folder, _read_only):
            checkpoint_errors.set_aside(folder, step)
        return _manager(folder, options)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Any]:
    """The checkpoints of a run that may still be running, for reading alone; None in a process that is not the writer.

    Raises:
        InputError: no checkpoints.
        DamagedError: a damaged checkpoint; also what is raised so while they are open, with the command that mends it.
    """
    mend = run_folder.mending(folder.parent)

    def opened() -> ocp.CheckpointManager:
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist; train the run first")
        try:
            return _read_only(folder)
        except (ValueError, TypeError, KeyError) as error:
            where = folder / " and ".join(map(str, checkpoint_errors.unopenable(folder, _read_only)))
            raise DamagedError(f"checkpoint {where} is damaged ({reason(error)}); to mend it: {mend}") from error

    manager = processes.in_writer(opened)
    try:
        yield manager
    except DamagedError as error:
        raise DamagedError(f"{error}; to mend it: {mend}") from error
    finally:
        if manager is not None:
            manager.close()


def save(manager: ocp.CheckpointManager, step: int, state: Any) -> None:
    """Save `state`. It counts as saved once it is complete, so a kill at any moment leaves the one before.

    Raises:
        InputError: it cannot be written.
    """
    arrays = jax.tree.map(np.asarray, state)
    digest = _digest(manager, step, arrays)
    try:
        with full_disk_named(manager.directory):
            manager.save(step, args=ocp.args.StandardSave(arrays), force=True, custom_metadata=digest)
    except InputError:
        raise
    except Exception as error:  # orbax raises whatever its storage layer raised
        raise InputError(
            f"cannot write checkpoint {Path(manager.directory) / str(step)}: {reason(error)}; mend that, then run the "
            "same command again"
        ) from error


@by_writer
def steps(manager: Any) -> list[int]:
    """Steps with a complete checkpoint, in increasing order."""
    return sorted(manager.all_steps())


@by_writer
def delete(manager: Any, step: int) -> None:
    """Remove the checkpoint of `step`."""
    manager.delete(step)


def restore(manager: Any, step: int, like: Any) -> Any:
    """The state saved at `step`, in the form of `like`, a tree of `jax.ShapeDtypeStruct` with their shardings.

    Raises `DamagedError` where it is not what was saved, and `InputError` where it cannot be read, or holds another
    tree, other shapes or other dtypes: orbax would cast a dtype silently and answer a wrong shape with pages of text.
    """
    arrays = _stored(manager, step, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like))
    return jax.tree.map(lambda array, leaf: hardware.placed(array, leaf.sharding), arrays, like)


@by_writer
def _stored(manager: Any, step: int, like: Any) -> Any:
    """What was saved at `step`, as NumPy arrays."""
    where = f"checkpoint {Path(manager.directory) / str(step)}"
    if not (Path(manager.directory) / str(step)).is_dir():
        raise InputError(f"{where} is gone, replaced by a later one of the run that is under way; try again")
    expected = shapes(like)
    try:
        digest = _stored_digest(manager, step)
        is_expected = digest.get("tree") == _text_digest(expected)
        stored = expected if is_expected else shapes(manager.item_metadata(step).tree)
    except Exception as error:  # orbax raises whatever its storage layer raised
        raise unreadable(where, error) from error
    if digest.get("tree") != _text_digest(stored):
        raise DamagedError(f"{where} is damaged (it is not the tree that was saved)")
    if differing := difference(stored, expected):
        name, here, there = differing
        raise InputError(
            f"{where} is of another model or optimiser: {name} should be {there}, is {here}; "
            "use the configuration it was made with"
        )
    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    try:
        with _late_reads_ignored():
            arrays = manager.restore(step, args=ocp.args.StandardRestore(target))
    except Exception as error:
        raise unreadable(where, error) from error
    if _digest(manager, step, arrays) != digest:
        raise DamagedError(f"{where} is damaged (its leaves are not those that were saved, or it is of another run)")
    return arrays


@contextlib.contextmanager
def _late_reads_ignored() -> Iterator[None]:
    """Where one leaf cannot be read, Orbax closes the event loop, and Python prints a traceback of each later leaf."""
    shown = sys.unraisablehook

    def show(late: Any) -> None:
        if str(late.exc_value) != "Event loop is closed":
            shown(late)

    sys.unraisablehook = show
    try:
        yield
    except Exception:
        time.sleep(_LATE)
        raise
    finally:
        sys.unraisablehook = shown


def _stored_digest(manager: ocp.CheckpointManager, step: int) -> dict[str, str]:
    """What `save` stored as `_digest`. Without a handler for the arrays, Orbax leaves their shapes unread."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(), multiprocessing_options=_WRITER) as checkpointer:
        return checkpointer.metadata(Path(manager.directory) / str(step)).custom_metadata or {}


def _digest(manager: ocp.CheckpointManager, step: int, state: Any) -> dict[str, str]:
    """What tells a checkpoint from any other: its tree; and its leaves, its step and the run that it is of."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
    settings = read_object(Path(manager.directory).parent / "config.json") or {}
    run = np.frombuffer(json.dumps(settings, sort_keys=True).encode(), np.uint8)
    return {"tree": _text_digest(shapes(state)), "leaves": checksum(arrays | {"/run": run, "/step": np.array(step)})}


def _text_digest(names: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


@by_writer
def set_aside(manager: Any, step: int) -> None:
    """Rename the checkpoint of `step` to `damaged-STEP`, so that it no longer counts as one."""
    checkpoint_errors.set_aside(Path(manager.directory), step)
    manager.reload()


def _read_only(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(create=False, read_only=True, multiprocessing_options=_WRITER)
    return _manager(folder, options)


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    # The handler is named so that the shapes in a checkpoint can be read before anything is restored.
    handler = ocp.StandardCheckpointHandler(use_ocdbt=False, multiprocessing_options=_WRITER)
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler)


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
