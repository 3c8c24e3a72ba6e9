"""Run configurations: group those that share a program, resume or skip, train, measure, keep what is needed to redraw.

A run interrupted at any moment and started again ends with the same bits: parameters come from the last complete
checkpoint, metrics logged after it are cut off, and everything random is drawn from the key of (seed, step).
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hessflat import data, metric_log, run
from hessflat.config import canonical_json, chosen_settings, flatten_values
from hessflat.curvature import precision
from hessflat.errors import InputError
from hessflat.files import write_arrays
from hessflat.measures import Subject, measure
from hessflat.models import num_params
from hessflat.progress import Reporter
from hessflat.schema import effective, validate
from hessflat.training import checkpoint
from hessflat.training.program import TRACED, Hyper, Program, TrainState, hyper_of, make_program

SECONDS_PER_BLOCK = 2.0
# Above this, one run fills an accelerator by itself.
MOST_PARAMS_TOGETHER = 1_000_000


class Job(NamedTuple):
    """One configuration with the folder that is its own."""

    config: ConfigDict
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.config.experiment} l2={self.config.optim.l2:g} seed={self.config.seed}"


def jobs_of(configs: Sequence[ConfigDict], root: Path) -> list[Job]:
    """The jobs of checked configurations; two equal ones are refused, for they would share a folder."""
    jobs = [Job(config, run.folder_of(effective(validate(config)), root)) for config in configs]
    seen: set[Path] = set()
    for job in jobs:
        if job.folder in seen:
            raise InputError(f"the sweep holds the same run twice ({job.folder.name}); remove one")
        seen.add(job.folder)
    return jobs


def work_of(config: ConfigDict) -> float:
    """A guess of a run's cost, for sharing out the time left between runs of unlike size."""
    epochs = len(measured_epochs(config)) * 20 + config.train.epochs / 10
    return epochs * (1 if config.model.name == "softmax_regression" else 5)


def run_all(jobs: Sequence[Job], reporter: Reporter) -> list[Program]:
    """Run every job that is not finished. Returns the programs that were compiled, one for each group of shapes."""
    for job in jobs:
        run.claim(job.folder, effective(job.config))
    programs = []
    for group in _groups(jobs):
        dataset = load_data(group[0].config)
        splits = device_splits(dataset)
        program = make_program(group[0].config, dataset.num_classes, splits["train"]["inputs"])
        programs.append(program)
        for chunk in _chunks(group, program):
            _run_chunk(program, chunk, dataset, splits, reporter)
    return programs


def load_data(config: ConfigDict) -> data.Dataset:
    """The data set of a configuration's `data` block."""
    common = {name: value for name, value in config.data.items() if not isinstance(value, ConfigDict)}
    return data.load(common.pop("name"), chosen_settings(config.data), **common)


def device_splits(dataset: data.Dataset) -> dict[str, dict[str, jax.Array]]:
    """The splits that hold examples, on the device."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        name: {key: jnp.asarray(array) for key, array in split.items()}
        for name, split in splits.items()
        if len(split["labels"])
    }


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        static = {k: v for k, v in flatten_values(job.config).items() if k not in TRACED.values()}
        groups.setdefault(canonical_json(static), []).append(job)
    return list(groups.values())


def _chunks(group: list[Job], program: Program) -> list[list[Job]]:
    """Runs that train together. On a CPU vectorising brings nothing, so there they go in turn."""
    execution = group[0].config.execution
    if execution == "auto":
        params = jax.eval_shape(program.init, hyper_of(group[0].config)).params
        small = num_params(params) <= MOST_PARAMS_TOGETHER
        execution = "vectorised" if jax.default_backend() != "cpu" and small else "turn"
    return [group] if execution == "vectorised" else [[job] for job in group]


def measured_epochs(config: ConfigDict) -> list[int]:
    """The epochs after which a run is measured, 0 being initialisation, in increasing order."""
    last = config.train.epochs
    if config.measure.at == "end":
        return [last]
    if config.measure.at == "every":
        return sorted({*range(0, last, config.measure.every), last})
    growth = (mantissa * 10**power for power in range(len(str(last))) for mantissa in (1, 2, 5))
    return sorted({0, *(epoch for epoch in growth if epoch < last), last})


def _run_chunk(
    program: Program,
    chunk: Sequence[Job],
    dataset: data.Dataset,
    splits: dict[str, dict[str, jax.Array]],
    reporter: Reporter,
) -> None:
    """Bring the jobs of a chunk to their end, those that are there already left alone."""
    with contextlib.ExitStack() as stack:
        for job in chunk:
            stack.enter_context(run.locked(job.folder))
        pending = []
        for job in chunk:
            manifest = run.read_manifest(job.folder)
            if manifest.get("data_checksum", dataset.checksum) != dataset.checksum:
                raise InputError(f"{job.folder} was run on other data; restore the data, or move the folder away")
            if manifest.get("status") in ("done", "diverged"):
                reporter.advance(work_of(job.config), f"{job.name}: {manifest['status']} already")
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
    splits: dict[str, dict[str, jax.Array]],
    reporter: Reporter,
) -> None:
    config = jobs[0].config
    hypers = [hyper_of(job.config) for job in jobs]
    stops = [epoch * program.steps_per_epoch for epoch in measured_epochs(config)]
    with _managers(jobs) as managers:
        states, step = _restored(program, jobs, hypers, managers)
        for job, state in zip(jobs, states, strict=True):
            metric_log.truncate(job.folder / "metrics.jsonl", step if step is not None else -1)
            _start_manifest(job, dataset, state, step, together=len(jobs))
        unfinished = len(stops) if step is None else sum(stop > step for stop in stops)
        work = [work_of(job.config) / max(len(stops), 1) for job in jobs]
        for amount, job in zip(work, jobs, strict=True):
            reporter.advance(amount * (len(stops) - unfinished), f"{job.name}: resumed")
        alive = list(range(len(jobs)))
        position = step or 0
        for stop in stops[len(stops) - unfinished :]:
            on_block = _checkpoint_saver(jobs, managers, stops, config.checkpoint.minutes * 60)
            for block_stop, states in _blocks(program, states, hypers, splits["train"], position, stop):
                share = (block_stop - position) / max(program.num_steps, 1)
                on_block(block_stop, states)
                reporter.advance(0.0, f"{_names(jobs)}: epoch {block_stop // program.steps_per_epoch}, {share:.0%}")
            position = stop
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
                record_measurement(
                    job.folder, subject_of(program, job.config, state.params, splits, stop), stop, program
                )
                checkpoint.save(managers[index], stop, state)
                reporter.advance(work[index], f"{job.name}: epoch {stop // program.steps_per_epoch}")
            if not alive:
                break
        for index in alive:
            managers[index].wait_until_finished()
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
    if not common:
        return states, None
    step = max(common)
    return [checkpoint.restore(m, step, state) for m, state in zip(managers, states, strict=True)], step


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
        num_params=num_params(state.params),
        seeds={"training": job.config.seed, "split": job.config.data.split_seed, "probes": job.config.measure.seed},
        matmul_precision=precision.name(),
        training_matmul_precision=jax.config.jax_default_matmul_precision or "default",
        batch_norm_mode="eval" if jax.tree.leaves(state.statistics) else "none in this model",
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


def _checkpoint_saver(
    jobs: Sequence[Job], managers: Sequence[Any], stops: Sequence[int], seconds: float
) -> Callable[[int, list[TrainState]], None]:
    """Save between measurements once enough time has passed, each such checkpoint replacing the one before."""
    last = time.monotonic()

    def on_block(step: int, states: list[TrainState]) -> None:
        nonlocal last
        if step in stops or time.monotonic() - last < seconds:
            return
        for manager, state in zip(managers, states, strict=True):
            manager.wait_until_finished()
            before = [saved for saved in checkpoint.steps(manager) if saved not in stops]
            checkpoint.save(manager, step, state)
            manager.wait_until_finished()
            for saved in before:
                manager.delete(saved)
        last = time.monotonic()

    return on_block


def _finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def subject_of(
    program: Program, config: ConfigDict, params: Any, splits: dict[str, dict[str, jax.Array]], step: int
) -> Subject:
    """What the measures see of a state."""
    return Subject(
        program.model,
        params,
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
