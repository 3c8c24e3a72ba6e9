"""Run configurations: resume or skip, train, measure, and keep what is needed to redraw.

A run interrupted at any moment and started again ends with the same bits: parameters come from the last complete
checkpoint, metrics logged after it are cut off, and everything random is drawn from the key of (seed, step).
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hessflat import data, metric_log, run
from hessflat.config import canonical_json, chosen_settings, flatten, override
from hessflat.curvature import precision
from hessflat.errors import InputError
from hessflat.files import write_arrays
from hessflat.jobs import Job, chunks_of, claim, groups_of, measured_epochs
from hessflat.measures import Subject, measure
from hessflat.progress import Reporter
from hessflat.schema import SCHEMA, effective, from_plain
from hessflat.training import checkpoint
from hessflat.training.program import TRACED, Hyper, Program, TrainState, hyper_of, make_program

SECONDS_PER_BLOCK = 2.0

Splits = dict[str, dict[str, jax.Array]]


def run_all(jobs: Sequence[Job], reporter: Reporter) -> int:
    """Run every job that is not finished. Returns the number of training programs, one for each group of shapes."""
    for job in jobs:
        claim(job)
    groups = groups_of(jobs)
    for group in groups:
        for chunk in chunks_of(group, prepared(group[0].config).program):
            _run_chunk(chunk, reporter)
    return len(groups)


class Prepared(NamedTuple):
    """What the runs of a group share."""

    program: Program
    dataset: data.Dataset
    splits: Splits


def prepared(config: ConfigDict) -> Prepared:
    """The program and the data of a configuration; the same objects for every run that shares them."""
    defaults = {name: flatten(SCHEMA)[name].default for name in TRACED.values()}
    return _prepared(canonical_json(effective(override(config, defaults))))


@functools.lru_cache(maxsize=64)
def _prepared(shared: str) -> Prepared:
    config = from_plain(json.loads(shared))
    dataset, splits = _loaded(canonical_json(effective(config)["data"]))
    return Prepared(make_program(config, dataset.num_classes, splits["train"]["inputs"]), dataset, splits)


@functools.lru_cache(maxsize=8)
def _loaded(block: str) -> tuple[data.Dataset, Splits]:
    """The data of a `data` block on the host and on the device, once for all programs that read it."""
    dataset = load_data(from_plain({"data": json.loads(block)}))
    return dataset, device_splits(dataset)


def work_of(config: ConfigDict) -> float:
    """A guess of a run's cost, for sharing out the time left: passes over the data times the size of the model."""
    epochs = measured_epochs(config)
    return _training_work(config, config.train.epochs) + sum(_measuring_work(config, epoch) for epoch in epochs)


def _training_work(config: ConfigDict, epochs: float) -> float:
    # An epoch in small batches costs more than a pass over the data at once.
    return 1.5 * epochs * _weight(config)


def _measuring_work(config: ConfigDict, epoch: float) -> float:
    settings = config.measure
    if settings.curvature == "end" and epoch < config.train.epochs:
        return _weight(config)
    products = settings.probes * settings.lanczos_steps + settings.trace_probes
    return len(settings.operators) * products * _weight(config)


def _weight(config: ConfigDict) -> float:
    # Small models are bound by the cost of launching work, which is that of some 2,000 parameters.
    return 2_000 + prepared(config).program.num_params


def load_data(config: ConfigDict) -> data.Dataset:
    """The data set of a configuration's `data` block."""
    common = {name: value for name, value in config.data.items() if not isinstance(value, ConfigDict)}
    return data.load(common.pop("name"), chosen_settings(config.data), **common)


def device_splits(dataset: data.Dataset) -> Splits:
    """The splits that hold examples, on the device."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        name: {key: jnp.asarray(array) for key, array in split.items()}
        for name, split in splits.items()
        if len(split["labels"])
    }


def _run_chunk(chunk: Sequence[Job], reporter: Reporter) -> None:
    """Bring the jobs of a chunk to their end, those that are there already left alone."""
    program, dataset, splits = prepared(chunk[0].config)
    with contextlib.ExitStack() as stack:
        for job in chunk:
            stack.enter_context(run.locked(job.folder))
        pending = []
        for job in chunk:
            manifest = run.read_manifest(job.folder)
            if manifest.get("data_checksum", dataset.checksum) != dataset.checksum:
                raise InputError(f"{job.folder} was run on other data; restore the data, or move the folder away")
            if run.is_finished(job.folder):
                reporter.skip(work_of(job.config))
            else:
                pending.append(job)
        if not pending:
            return
        try:
            _train_and_measure(program, pending, dataset, splits, reporter)
        except Exception as error:
            for job in pending:
                if run.read_manifest(job.folder).get("status") == "running":
                    reason = (str(error).splitlines() or [""])[0]
                    run.write_manifest(job.folder, status="failed", reason=f"{type(error).__name__}: {reason}")
            raise


def _train_and_measure(
    program: Program,
    jobs: Sequence[Job],
    dataset: data.Dataset,
    splits: Splits,
    reporter: Reporter,
) -> None:
    config = jobs[0].config
    hypers = [hyper_of(job.config) for job in jobs]
    stops = [epoch * program.steps_per_epoch for epoch in measured_epochs(config)]
    kept = stops if config.checkpoint.keep == "measured" else stops[-1:]
    with _managers(jobs) as managers:
        states, step = _restored(program, jobs, hypers, managers)
        for job, state in zip(jobs, states, strict=True):
            _cut_back(job.folder, step, stops)
            _start_manifest(job, dataset, state, step, together=len(jobs))
        remaining = [stop for stop in stops if step is None or stop > step]
        position = step or 0
        for job in jobs:
            already = [stop / program.steps_per_epoch for stop in stops if stop not in remaining]
            reporter.skip(_training_work(job.config, position / program.steps_per_epoch))
            reporter.skip(sum(_measuring_work(job.config, epoch) for epoch in already))
        alive = list(range(len(jobs)))
        save_if_due = _saver_in_between(managers, kept, config.checkpoint.minutes * 60)
        for stop in remaining:
            for block_stop, block_states in _blocks(program, states, hypers, splits["train"], position, stop):
                states = block_states
                if block_stop < stop:
                    save_if_due(block_stop, states)
                epochs = (block_stop - position) / program.steps_per_epoch
                doing = f"{_names(jobs)}: epoch {block_stop // program.steps_per_epoch} of {config.train.epochs}"
                reporter.advance(sum(_training_work(job.config, epochs) for job in jobs), doing)
                position = block_stop
            for index in list(alive):
                job, state = jobs[index], states[index]
                if not _finite(state.params):
                    run.write_manifest(
                        job.folder,
                        status="diverged",
                        reason=f"parameters are not finite after step {stop}",
                        finished=run.now(),
                    )
                    alive.remove(index)
                    reporter.note(f"{job.name}: diverged by step {stop}; its measurements are kept")
                    continue
                reporter.advance(0.0, f"{job.name}: epoch {stop // program.steps_per_epoch}, measuring")
                record_measurement(job.folder, subject_of(program, job.config, state, splits, stop), stop, program)
                if stop in kept:
                    checkpoint.save(managers[index], stop, state)
                reporter.advance(_measuring_work(job.config, stop / program.steps_per_epoch), f"{job.name}: measured")
            if not alive:
                break
            # Only now, for a checkpoint promises that what was measured up to its step is on disk.
            if stop not in kept:
                save_if_due(stop, states)
        for index in alive:
            run.write_manifest(jobs[index].folder, status="done", finished=run.now())


def _names(jobs: Sequence[Job]) -> str:
    return jobs[0].name if len(jobs) == 1 else f"{jobs[0].config.experiment}: {len(jobs)} runs together"


@contextlib.contextmanager
def _managers(jobs: Sequence[Job]) -> Iterator[list[Any]]:
    managers = [checkpoint.open_folder(job.folder / "checkpoints") for job in jobs]
    try:
        yield managers
    finally:
        for manager in managers:
            manager.close()


def _restored(
    program: Program, jobs: Sequence[Job], hypers: Sequence[Hyper], managers: Sequence[Any]
) -> tuple[list[TrainState], int | None]:
    """The states to start from: fresh, with step None, or from the last step that every job has a checkpoint of."""
    states = [program.init(hyper) for hyper in hypers]
    common = set.intersection(*(set(checkpoint.steps(manager)) for manager in managers))
    step = max(common, default=None)
    # What a killed process saved for some of the jobs but not for all is made again.
    for manager in managers:
        for newer in checkpoint.steps(manager):
            if step is None or newer > step:
                manager.delete(newer)
    if step is None:
        return states, None
    return [checkpoint.restore(m, step, state) for m, state in zip(managers, states, strict=True)], step


def _cut_back(folder: Path, step: int | None, stops: Sequence[int]) -> None:
    """Drop the metrics logged after `step`; what is left must be every measurement up to it."""
    path = folder / "metrics.jsonl"
    metric_log.truncate(path, -1 if step is None else step)
    found = [record["step"] for record in metric_log.read(path)]
    expected = [] if step is None else [stop for stop in stops if stop <= step]
    if found != expected:
        raise InputError(
            f"{path} should hold the measurements of steps {expected} that the checkpoint of step {step} stands on, "
            f"but holds {found}; move {folder} away and run again"
        )


def _start_manifest(job: Job, dataset: data.Dataset, state: TrainState, step: int | None, together: int) -> None:
    old = run.read_manifest(job.folder)
    run.write_manifest(
        job.folder,
        **run.environment(),
        status="running",
        reason=None,
        started=old.get("started", run.now()),
        finished=None,
        resumed_from=[*old.get("resumed_from", []), *([] if step is None else [step])],
        data_checksum=dataset.checksum,
        data=dataset.description,
        examples={name: len(split["labels"]) for name, split in dataset._asdict().items() if isinstance(split, dict)},
        num_params=prepared(job.config).program.num_params,
        seeds={"training": job.config.seed, "split": job.config.data.split_seed, "probes": job.config.measure.seed},
        matmul_precision=precision.name(),
        training_matmul_precision=jax.config.values["jax_default_matmul_precision"] or "default",
        batch_norm_mode="none in this model",
        statistics_batch=None,
        runs_together=together,
    )


def _blocks(
    program: Program,
    states: list[TrainState],
    hypers: Sequence[Hyper],
    train: dict[str, jax.Array],
    start: int,
    stop: int,
) -> Iterator[tuple[int, list[TrainState]]]:
    """Advance from `start` to `stop` in blocks of a few seconds, so that the host can report and save in between."""
    size = program.steps_per_epoch
    while start < stop:
        block_stop = min(start + size, stop)
        began = time.monotonic()
        states = jax.block_until_ready(program.advance_all(states, hypers, train, start, block_stop))
        seconds = max(time.monotonic() - began, 1e-6)
        size = max(1, min(int((block_stop - start) * SECONDS_PER_BLOCK / seconds), 10 * size))
        start = block_stop
        yield start, states


def _saver_in_between(
    managers: Sequence[Any], kept: Sequence[int], seconds: float
) -> Callable[[int, list[TrainState]], None]:
    """Save a checkpoint to resume from once enough time has passed since the last, which it replaces."""
    last = time.monotonic()

    def save_if_due(step: int, states: list[TrainState]) -> None:
        nonlocal last
        if time.monotonic() - last < seconds:
            return
        before = [[saved for saved in checkpoint.steps(manager) if saved not in kept] for manager in managers]
        for manager, state in zip(managers, states, strict=True):
            checkpoint.save(manager, step, state)
        for manager, replaced in zip(managers, before, strict=True):
            for saved in replaced:
                manager.delete(saved)
        last = time.monotonic()

    return save_if_due


def _finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def subject_of(program: Program, config: ConfigDict, state: TrainState, splits: Splits, step: int) -> Subject:
    """What the measures see of a state."""
    if jax.tree.leaves(state.statistics):
        raise InputError(
            f"model {config.model.name!r} has batch normalisation, whose statistics the measures cannot take yet; "
            "use a model without it"
        )
    return Subject(
        program.model,
        state.params,
        splits,
        program.num_classes,
        config.train.label_smoothing,
        config.measure.to_dict(),
        is_last=step == program.num_steps,
    )


def record_measurement(folder: Path, subject: Subject, step: int, program: Program) -> None:
    """Measure, and write spectra first and the line of metrics last, so that a line's spectra are always there."""
    scalars, arrays = measure(subject)
    for name, content in arrays.items():
        write_arrays(folder / "spectra" / f"{step}-{name}.npz", {k: np.asarray(v) for k, v in content.items()})
    metric_log.append(folder / "metrics.jsonl", {"step": step, "epoch": step / program.steps_per_epoch, **scalars})
