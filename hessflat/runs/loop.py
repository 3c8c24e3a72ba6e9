"""Run configurations: resume or skip, train, measure, and keep what is needed to redraw.

A run interrupted at any moment and started again ends with the same bits: parameters come from the last complete
checkpoint, metrics logged after it are cut off, and everything random is drawn from the key of (seed, step).
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessflat import data
from hessflat.config import plain
from hessflat.curvature import numerics
from hessflat.measures import EvalState, make_protocol, measure
from hessflat.measures.performance import losses_and_accuracies
from hessflat.runs import cost_model, environment, restore, run_folder
from hessflat.runs.compiled import Prepared, dataset_of, prepared
from hessflat.runs.cost_model import RunCost
from hessflat.runs.dependencies import manifest_of_finished, named_run, waves
from hessflat.runs.jobs import Job, chunks_of, claim, due_at, due_at_end, groups_of
from hessflat.runs.restore import Position
from hessflat.runs.schema import RunConfig
from hessflat.training.step import Hyperparams, TrainState
from hessflat.training.stopping import reason_to_stop, steps_to_evaluate
from hessflat.training.trainer import Trainer, make_hyperparams, train_runs
from hessflat.utils import hardware
from hessflat.utils.errors import InputError
from hessflat.utils.files import write_arrays
from hessflat.utils.progress import Reporter

SECONDS_PER_BLOCK = 2.0


def run_all(jobs: Sequence[Job], reporter: Reporter) -> int:
    """Run every job that is not finished. Returns the number of training programs, one for each group of shapes."""
    for job in jobs:
        claim(job)
    groups = [group for wave in waves(jobs) for group in groups_of(wave)]
    for group in groups:
        for chunk in chunks_of(group):
            _run_chunk(chunk, reporter)
            hardware.release_programs()
    return len(groups)


def _run_chunk(chunk: Sequence[Job], reporter: Reporter) -> None:
    """Bring the jobs of a chunk to their end, those that are there already left alone."""
    checksum = dataset_of(chunk[0].config).checksum
    with contextlib.ExitStack() as stack:
        for job in chunk:
            stack.enter_context(run_folder.locked(job.folder))
        pending = []
        for job in chunk:
            manifest = run_folder.read_manifest(job.folder)
            if manifest.get("data_checksum", checksum) != checksum:
                raise InputError(f"{job.folder} was run on other data; restore the data, or move the folder away")
            if run_folder.is_finished(job.folder):
                reporter.skip(cost_model.run_cost(job.config).total_seconds())
            else:
                pending.append(job)
        if not pending:
            return
        shared = prepared(chunk[0].config)
        by_last: dict[int, list[Job]] = {}
        for job in pending:
            by_last.setdefault(_last_step(job, shared.trainer), []).append(job)
        try:
            for last, jobs in by_last.items():
                _train_and_measure(jobs, last, shared, reporter)
        except Exception as error:
            for job in pending:
                if run_folder.read_manifest(job.folder).get("status") == "running":
                    reason = (str(error).splitlines() or [""])[0]
                    run_folder.write_manifest(job.folder, status="failed", reason=f"{type(error).__name__}: {reason}")
            raise


def _train_and_measure(jobs: Sequence[Job], last: int, shared: Prepared, reporter: Reporter) -> None:
    """Bring jobs that train together to step `last`, or to where a rule of `stop` ends them before."""
    config, trainer, splits = jobs[0].config, shared.trainer, shared.splits
    hyperparams = [make_hyperparams(job.config) for job in jobs]
    costs = [cost_model.run_cost(job.config) for job in jobs]
    due = due_at(config, trainer.steps_per_epoch, last)
    eval_steps = steps_to_evaluate(config, last)
    kept = [step for step, names in due.items() if "spectra" in names] if config.checkpoint.keep == "measured" else []
    save, save_is_due = restore.saver(config, kept), restore.is_due(config.checkpoint.minutes * 60)
    with restore.managers_of(jobs) as managers:
        positions, step = restore.restored(jobs, trainer, managers, reporter.note)
        for job, position in zip(jobs, positions, strict=True):
            restore.cut_back(job.folder, step, [stop for stop, names in due.items() if names])
            _start_manifest(job, shared.dataset, position.state, step, together=len(jobs))
        _skip(costs, step, reporter)
        alive = list(range(len(jobs)))

        def save_all(step: int) -> None:
            for index in alive:
                save(managers[index], step, positions[index])

        at = step or 0
        for stop in [stop for stop in sorted({*due, *eval_steps}) if step is None or stop >= step]:
            for block_stop, states in _blocks(
                trainer, [p.state for p in positions], hyperparams, splits["train"], at, stop
            ):
                positions = [p._replace(state=state) for p, state in zip(positions, states, strict=True)]
                if block_stop < stop and save_is_due():
                    save_all(block_stop)
                doing = f"{_names(jobs)}: {_where(trainer, block_stop, last)}"
                reporter.advance(sum(cost.training_seconds(block_stop - at) for cost in costs), doing)
                at = block_stop
            for index in list(alive):
                job = jobs[index]
                if not _finite(positions[index].state.params):
                    _end(job, "diverged", stop, f"parameters are not finite after step {stop}")
                    reporter.note(f"{job.name}: diverged by step {stop}; its measurements are kept")
                    unmeasured = costs[index].measuring_seconds(due.get(stop, ()))
                    reporter.skip(cost_model.OVERHEAD + unmeasured + costs[index].remaining_seconds(stop))
                    alive.remove(index)
                    continue
                was_done = stop == step  # before this process took over
                first_params = partial(restore.first_params, job, trainer)
                measured = None if was_done else make_eval_state(job.config, shared, positions[index], first_params)
                if measured and stop in eval_steps:
                    _evaluate(job.folder, measured, stop)
                reason = reason_to_stop(job.config, run_folder.read_lines(job.folder / "eval.jsonl"))
                names = due_at_end(config) if reason or stop == last else due.get(stop, frozenset())
                if measured and names:
                    reporter.advance(0.0, f"{job.name}: {_where(trainer, stop, last)}, measuring")
                    starts = record_measurement(job.folder, job.config, measured, names, stop, trainer)
                    positions[index] = positions[index]._replace(starts=starts)
                    reporter.advance(costs[index].measuring_seconds(names), f"{job.name}: measured")
                    if stop in kept or reason or stop == last:
                        save(managers[index], stop, positions[index])
                if reason or stop == last:
                    _end(job, "done", stop, reason)
                    alive.remove(index)
                    reporter.advance(cost_model.OVERHEAD, f"{job.name}: finished")
                    reporter.skip(costs[index].remaining_seconds(stop))
            if not alive:
                break
            # Only now, for a checkpoint promises that what was measured up to its step is on disk.
            if stop != step and stop not in kept and save_is_due():
                save_all(stop)


def _last_step(job: Job, trainer: Trainer) -> int:
    """Where the run ends if no rule of `stop` ends it before."""
    other = named_run(job, "stop.with_run")
    if other is None:
        return trainer.num_steps
    manifest = manifest_of_finished(other.folder, "stop.with_run")
    return min(trainer.num_steps, manifest["steps"])


def _skip(costs: Sequence[RunCost], step: int | None, reporter: Reporter) -> None:
    if step is not None:
        reporter.skip(sum(cost.total_seconds() - cost_model.OVERHEAD - cost.remaining_seconds(step) for cost in costs))


def _evaluate(folder: Path, state: EvalState, step: int) -> None:
    """Evaluate the whole training split."""
    loss, accuracy = losses_and_accuracies(state, ["train"])["train"]
    run_folder.append_line(folder / "eval.jsonl", {"step": step, "train_loss": loss, "train_accuracy": accuracy})


def _end(job: Job, status: str, step: int, reason: str | None) -> None:
    run_folder.write_manifest(job.folder, status=status, steps=step, reason=reason, finished=run_folder.now())


def _names(jobs: Sequence[Job]) -> str:
    return jobs[0].name if len(jobs) == 1 else f"{jobs[0].config.experiment}: {len(jobs)} runs together"


def _where(trainer: Trainer, step: int, last: int) -> str:
    if trainer.steps_per_epoch == 1:
        return f"step {step} of {last}"
    return f"epoch {step // trainer.steps_per_epoch} of {-(-last // trainer.steps_per_epoch)}"


def _start_manifest(job: Job, dataset: data.Dataset, state: TrainState, step: int | None, together: int) -> None:
    old = run_folder.read_manifest(job.folder)
    config, has_batch_norm = job.config, bool(jax.tree.leaves(state.batch_stats))
    run_folder.write_manifest(
        job.folder,
        **environment.environment(),
        status="running",
        reason=None,
        started=old.get("started", run_folder.now()),
        finished=None,
        resumed_from=[*old.get("resumed_from", []), *([] if step is None else [step])],
        data_checksum=dataset.checksum,
        data=dataset.description,
        examples={name: len(split["labels"]) for name, split in dataset._asdict().items() if isinstance(split, dict)},
        num_params=prepared(job.config).trainer.num_params,
        seeds={"training": config.seed, "split": config.data.split_seed, "probes": config.measure.seed},
        matmul_precision=numerics.precision_name(),
        training_matmul_precision=config.train.precision,
        batch_norm_mode=" and ".join(config.measure.modes) if has_batch_norm else "none in this model",
        batch_stats_size=(config.measure.batch_stats_size or "all measured examples") if has_batch_norm else None,
        runs_together=together,
    )


def _blocks(
    trainer: Trainer,
    states: list[TrainState],
    hyperparams: Sequence[Hyperparams],
    train: dict[str, jax.Array],
    start: int,
    stop: int,
) -> Iterator[tuple[int, list[TrainState]]]:
    """Advance from `start` to `stop` in blocks of a few seconds, so that the host can report and save in between."""
    size = trainer.steps_per_epoch
    while start < stop:
        block_stop = min(start + size, stop)
        began = time.monotonic()
        states = jax.block_until_ready(train_runs(trainer, states, hyperparams, train, start, block_stop))
        seconds = max(time.monotonic() - began, 1e-6)
        size = max(1, min(int((block_stop - start) * SECONDS_PER_BLOCK / seconds), 10 * size))
        start = block_stop
        yield start, states


def _finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def make_eval_state(
    config: RunConfig, shared: Prepared, position: Position, first_params: Callable[[], Any]
) -> EvalState:
    """What the measures see at a position of a run; `first_params` makes the weights that it started from."""
    trainer = shared.trainer
    params, statistics = trainer.eval_params(position.state, shared.splits["train"])
    return EvalState(
        trainer.model,
        params,
        statistics,
        shared.splits,
        trainer.num_classes,
        config.train.loss,
        config.train.label_smoothing,
        make_protocol(config.measure),
        position.starts,
        config.devices,
        first_params,
        plain(config.data),
    )


def record_measurement(
    folder: Path, config: RunConfig, state: EvalState, names: frozenset[str], step: int, trainer: Trainer
) -> Mapping[str, jax.Array]:
    """Measure, and write spectra first and the line of metrics last, so that a line's spectra are always there.

    Returns where the next search for eigenvectors starts.
    """
    measurement = measure(state, names, config.measure)
    for name, content in measurement.arrays.items():
        write_arrays(folder / "spectra" / f"{step}-{name}.npz", {k: np.asarray(v) for k, v in content.items()})
    line = {"step": step, "epoch": step / trainer.steps_per_epoch, **measurement.scalars}
    run_folder.append_line(folder / "metrics.jsonl", line)
    return state.starts if measurement.starts is None else measurement.starts
