"""Where a run starts: from nothing, from its own last checkpoint, or from the end of another run."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hessflat.measures import make_protocol
from hessflat.measures.sharpness import no_starts
from hessflat.runs import checkpoints, run_folder
from hessflat.runs.compiled import prepared
from hessflat.runs.dependencies import manifest_of_finished, named_run
from hessflat.runs.jobs import Job
from hessflat.runs.schema import RunConfig, from_plain
from hessflat.training import sharding
from hessflat.training.step import TrainState
from hessflat.training.trainer import Trainer, make_hyperparams
from hessflat.utils.errors import InputError


class Position(NamedTuple):
    """What a checkpoint holds: a state of training, and where the next search for eigenvectors starts."""

    state: TrainState
    starts: Mapping[str, Any]


def first_position(config: RunConfig, trainer: Trainer) -> Position:
    """Before the first step."""
    return _placed(config, position_of(config, trainer.init(make_hyperparams(config))))


def position_of(config: RunConfig, state: TrainState) -> Position:
    """A state for which no eigenvectors are known yet."""
    if config.measure.sharpness == "never":
        return Position(state, {})
    return Position(state, no_starts(make_protocol(config.measure), state.params, state.batch_stats))


def stored_position(config: RunConfig, trainer: Trainer, manager: Any, step: int) -> Position:
    """What the checkpoint of `step` holds, which a run of `config` has left."""
    state = jax.eval_shape(trainer.init, make_hyperparams(config))
    like = jax.eval_shape(partial(position_of, config), state)
    return _placed(config, checkpoints.restore(manager, step, like))


def stored_config(folder: Path) -> RunConfig:
    """The configuration that a run folder belongs to."""
    stored = run_folder.read_config(folder)
    if stored is None:
        raise InputError(f"{folder} is not a run folder: it has no config.json; see the folders under runs/")
    return from_plain(stored)


def started_from(job: Job, trainer: Trainer) -> Position:
    """`first_position`, with the weights and statistics of another run where `train.from_run` names one.

    Without `@STEP` that run must be finished: what it ends with never changes, so a killed run starts there again.
    """
    position = first_position(job.config, trainer)
    named = named_run(job, "train.from_run")
    if named is None:
        return position
    folder, at = named
    if not at:
        at = str(manifest_of_finished(folder, "train.from_run")["steps"])
    other = dataclasses.replace(stored_config(folder), devices=job.config.devices)
    with checkpoints.reading(folder / "checkpoints") as manager:
        step = chosen_steps(at, checkpoints.steps(manager), folder)[-1]
        state = stored_position(other, prepared(other).trainer, manager, step).state
    differing = checkpoints.difference(checkpoints.shapes(state.params), checkpoints.shapes(position.state.params))
    if differing:
        name, there, here = differing
        raise InputError(
            f"config.train.from_run: {folder} is of another model: {name} is {there} there and {here} here; "
            "use the same model and data shapes"
        )
    average = state.params if position.state.average else position.state.average
    state = position.state.replace(params=state.params, batch_stats=state.batch_stats, average=average)
    return position._replace(state=state)


def first_params(job: Job, trainer: Trainer) -> Any:
    """The weights of `job` before its first step, made anew."""
    return started_from(job, trainer).state.params


def restored(
    jobs: Sequence[Job], trainer: Trainer, managers: Sequence[Any], note: Callable[[str], None]
) -> tuple[list[Position], int | None]:
    """Where the jobs go on: at their beginning, with step None, or at the last step that all can be read back at.

    What a killed process saved for some of the jobs but not for all is made again, and so is what cannot be read.
    """
    while True:
        common = set.intersection(*(set(checkpoints.steps(manager)) for manager in managers))
        step = max(common, default=None)
        for manager in managers:
            for newer in checkpoints.steps(manager):
                if step is None or newer > step:
                    manager.delete(newer)
        if step is None:
            return [started_from(job, trainer) for job in jobs], None
        positions = []
        for job, manager in zip(jobs, managers, strict=True):
            try:
                positions.append(stored_position(job.config, trainer, manager, step))
            except checkpoints.DamagedError as error:
                note(f"{error}; going on from the one before")
                checkpoints.set_aside(manager, step)
        if len(positions) == len(jobs):
            return positions, step


def cut_back(folder: Path, step: int | None, expected: Sequence[int]) -> None:
    """Drop what was logged after `step`; what is left must have every measurement up to it."""
    for name in ("metrics.jsonl", "eval.jsonl"):
        run_folder.truncate_lines(folder / name, -1 if step is None else step)
    found = [record["step"] for record in run_folder.read_lines(folder / "metrics.jsonl")]
    missing = [] if step is None else [stop for stop in expected if stop <= step and stop not in found]
    if missing:
        raise InputError(
            f"{folder / 'metrics.jsonl'} should hold the measurements of steps {missing} that the checkpoint of step "
            f"{step} stands on, but holds {found}; move {folder} away and run again"
        )


@contextlib.contextmanager
def managers_of(jobs: Sequence[Job]) -> Iterator[list[Any]]:
    """The checkpoints of every job, open."""
    managers = [checkpoints.open_folder(job.folder / "checkpoints") for job in jobs]
    try:
        yield managers
    finally:
        for manager in managers:
            manager.close()


def saver(config: RunConfig, kept: Sequence[int]) -> Callable[[Any, int, Position], None]:
    """`save(manager, step, position)`: write it, and remove all but the last few that are not `kept`."""

    def save(manager: Any, step: int, position: Position) -> None:
        checkpoints.save(manager, step, position)
        replaceable = [saved for saved in checkpoints.steps(manager) if saved not in kept]
        for saved in replaceable[: -config.checkpoint.last]:
            manager.delete(saved)

    return save


def is_due(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since this last said so, or since it was made."""
    last = time.monotonic()

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


def _placed(config: RunConfig, position: Position) -> Position:
    return sharding.everywhere(position, sharding.make_mesh(config.devices))
