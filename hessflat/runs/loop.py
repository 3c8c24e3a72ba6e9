"""Run configurations: restore or begin, train, evaluate, measure, save.

A run interrupted at any moment and started again ends with the same bits: parameters come from the last complete
checkpoint, metrics logged after it are cut off, and everything random is drawn from the key of (seed, step).

Where several processes run it together, all compute, and the writer alone reads and writes the run's files; what it
finds there, and when blocks end, the others have from it.

The module is long because what becomes of a run at a step, and who does it, is read in one place.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hessflat import measures
from hessflat.config import plain
from hessflat.curvature import numerics
from hessflat.measures import EvalState, Measurement
from hessflat.measures.eval_state import has_batch_norm
from hessflat.measures.performance import losses_and_accuracies
from hessflat.runs import checkpoints, mending, run_folder, schema, writers
from hessflat.runs.checkpoints import Position
from hessflat.runs.cost_model import Accounting, run_cost
from hessflat.runs.jobs import (
    Compiled,
    Job,
    chunks,
    compiled,
    due_at_end,
    finished_manifest,
    group_by_trainer,
    levels,
    load_data,
    locked,
    make_milestones,
    named_run,
    reserved,
    steps_to_evaluate,
)
from hessflat.runs.schema import RunConfig
from hessflat.training.optimisation import loss_of_best_guess
from hessflat.training.step import Hyperparams
from hessflat.training.trainer import make_hyperparams, train_runs
from hessflat.utils import hardware, processes, progress
from hessflat.utils.errors import DamagedError, InputError, Lost, Stopped
from hessflat.utils.files import write_arrays
from hessflat.utils.processes import by_writer, from_writer, held_by_writer
from hessflat.utils.progress import Reporter

SECONDS_PER_BLOCK = 2.0


def run_all(jobs: Sequence[Job], reporter: Reporter, anew: bool = False, thorough: bool = False) -> list[str]:
    """Run every job that is not finished; mend those that are damaged.

    Args:
        jobs: configurations with their folders.
        reporter: what is told of how far it is.
        anew: train a damaged run from its beginning where nothing of it is left to mend it from.
        thorough: look at the checkpoints of finished runs too.

    Returns:
        A line for each run that could not be mended, or was damaged while it was under way. The others are run.
    """
    lost: list[str] = []
    with held_by_writer(lambda: reserved(jobs)):
        groups = [group for level in levels(jobs) for group in group_by_trainer(level)]
        for chunk in (chunk for group in groups for chunk in chunks(group)):
            progress.stop_if_asked()
            try:
                with held_by_writer(partial(locked, chunk)), failures_recorded(chunk), processes.loss_named():
                    ready, beyond = mended(chunk, anew, thorough, reporter.note)
                    lost += beyond
                    for last, some in unfinished_by_last_step(ready, reporter):
                        train_and_measure(some, last, compiled(some[0].config), reporter)
            except DamagedError as error:
                lost.append(str(error))
            release_programs()
    return lost


@by_writer
def mended(jobs: list[Job], anew: bool, thorough: bool, note: Callable[[str], None]) -> tuple[list[Job], list[str]]:
    """The jobs whose runs are whole, or ready to go on before what is damaged; a line on each other one."""
    if not thorough and not any(run_folder.problems(job.folder) for job in jobs):
        return jobs, []
    lost: list[str] = []
    return mending.mend(jobs, anew, thorough, note, lost), lost


def release_programs() -> None:
    """Let go of compiled programs where they have taken most of the memory mappings that Linux allows a process.

    XLA's CPU compiler makes hundreds for a convolutional network, and ends the process where there are no more; a
    sweep over many networks comes to that. What is needed again is read from the cache on disk.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        taken = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return  # not Linux, which alone has this limit
    if taken > allowed / 2:
        jax.clear_caches()


@contextlib.contextmanager
def failures_recorded(jobs: Sequence[Job]) -> Iterator[None]:
    """Where an error, a signal or a lost process ends the runs, say so in the manifests of those that were running."""
    try:
        yield
    except (Exception, Stopped, Lost) as error:
        status, reason = "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if isinstance(error, (Stopped, Lost)):
            status, reason = "stopped", "a signal" if isinstance(error, Stopped) else "another process ended"
        for job in jobs if processes.is_writer() else ():
            with contextlib.suppress(InputError, OSError):  # the first error is the one to tell of
                if run_folder.read_manifest(job.folder).get("status") == "running":
                    run_folder.write_manifest(job.folder, status=status, reason=reason)
        raise


def unfinished_by_last_step(jobs: Sequence[Job], reporter: Reporter) -> list[tuple[int, list[Job]]]:
    """The jobs that are not finished, by the step at which they end if no rule of `stop` ends them before.

    One that is mended stands by itself.
    """
    by_last: dict[tuple[int, Path | None], list[Job]] = {}
    for job in jobs:
        checksum, manifest = data_checksum(job.config), from_writer(partial(run_folder.read_manifest, job.folder))
        if manifest.get("data_checksum", checksum) != checksum:
            raise InputError(f"{job.folder} was run on other data; restore the data, or move the folder away")
        if manifest.get("status") in run_folder.FINISHED:
            reporter.skip(run_cost(job.config).total_seconds())
        else:
            with processes.failing_together():
                last, other = compiled(job.config).trainer.num_steps, named_run(job, "stop.match_steps_of")
            if other is not None:
                manifest_of_other = from_writer(partial(finished_manifest, other.folder, "stop.match_steps_of"))
                last = min(last, manifest_of_other["steps"])
            alone = None if manifest.get("redo_from") is None else job.folder
            by_last.setdefault((last, alone), []).append(job)
    return [(last, some) for (last, _), some in by_last.items()]


def data_checksum(config: RunConfig) -> str:
    """The checksum of the data, which every process has loaded for itself."""
    with processes.failing_together():
        checksum = load_data(config.data).checksum
    with processes.failing_together():
        if checksum != processes.agreed(checksum):
            raise InputError(
                f"data set {config.data.name!r} is another here than in the first process; prepare the same one on "
                "every machine"
            )
    return checksum


def reason_to_stop(config: RunConfig, evals: Sequence[Mapping[str, float]]) -> str | None:
    """The rule that `evals`, each with `train_loss` and `train_accuracy`, fulfil; None to go on.

    The rules are those of *On progressive sharpening, flat minima and generalisation*: 99 % of the training examples
    right (B.1), or the mean of the last ten losses over all of them below a threshold (B.2).
    """
    rule = config.stop
    if not evals:
        return None
    if rule.train_accuracy and evals[-1]["train_accuracy"] >= rule.train_accuracy:
        return f"training accuracy {evals[-1]['train_accuracy']:.4g} reached {rule.train_accuracy:g}"
    last = [one["train_loss"] for one in evals[-rule.window :]]
    if rule.train_loss and len(last) == rule.window and sum(last) / len(last) < rule.train_loss:
        return f"mean of the last {len(last)} training losses, {sum(last) / len(last):.4g}, below {rule.train_loss:g}"
    return None


@by_writer
def _reason_to_stop(job: Job) -> str | None:
    return reason_to_stop(job.config, run_folder.read_lines(job.folder / "eval.jsonl"))


def train_and_measure(jobs: Sequence[Job], last: int, shared: Compiled, reporter: Reporter) -> None:
    """Bring runs that train together to step `last`, or to where a rule of `stop` ends them before.

    From one milestone to the next: train; and of each run that goes on: evaluate, measure, save, end.
    """
    config, trainer = jobs[0].config, shared.trainer
    milestones, hyperparams = (
        make_milestones(config, trainer.steps_per_epoch, last, steps_to_evaluate(config, last)),
        [make_hyperparams(job.config) for job in jobs],
    )
    accounting = Accounting(reporter, jobs, [run_cost(job.config) for job in jobs], trainer.steps_per_epoch, last)
    is_due = checkpoints.timer(config.checkpoint.minutes * 60)
    with checkpoints.open_all(jobs) as managers, contextlib.ExitStack() as stack:
        redo = from_writer(partial(run_folder.read_manifest, jobs[0].folder)).get("redo_from")
        positions, start = checkpoints.latest_positions(jobs, trainer, managers, reporter.note, redo)
        known = [] if redo is None else [one for one in checkpoints.steps(managers[0]) if start is None or one > start]
        for job, position in zip(jobs, positions, strict=True):
            checkpoints.require_measured(job.folder, start, [one for one, due in milestones.measured.items() if due])
            _begin(job, shared, position, start, len(jobs))
        mirrors = [stack.enter_context(mirror(job, start, reporter.note)) for job in jobs]
        accounting.restored(start)
        active = list(range(len(jobs)))

        def save(step: int, runs: Sequence[int]) -> None:
            for run in runs:
                processes.in_writer(partial(run_folder.seal, jobs[run].folder))
                checkpoints.save_position(config, milestones.stored, managers[run], step, positions[run])

        at = start or 0
        for step in (
            step for step in sorted({*milestones.measured, *milestones.evaluated}) if start is None or step >= start
        ):
            for saved in [one for one in known if at < one <= step][-1:]:
                stored = checkpoints.stored_position(config, trainer, managers[0], saved)
                positions, at = [positions[0]._replace(state=stored.state)], saved
            for block_end, trained in train(shared, positions, hyperparams, at, step):
                positions = trained
                if block_end < step and (progress.asked_to_stop() or is_due()):
                    save(block_end, active)
                    progress.stop_if_asked()
                accounting.trained(at, block_end)
                at = block_end
            for run in list(active):
                names = milestones.measured.get(step, frozenset())
                if not processes.agreed(_is_finite(positions[run].state.params)):
                    _end(jobs[run], "diverged", step, f"parameters are not finite after step {step}")
                    accounting.diverged(run, step, names)
                    active.remove(run)
                    continue
                state = None if step == start else _state_of_run(jobs[run], shared, positions[run])
                if state and step in milestones.evaluated:
                    mirrors[run](evaluate(jobs[run].folder, state, step), "eval.")
                reason = _reason_to_stop(jobs[run])
                ends = reason is not None or step == last
                names = due_at_end(config) if ends else names
                if state and names:
                    accounting.measuring(run, step)
                    measurement = measures.measure(state, names, config.measure)
                    mirrors[run](record(jobs[run].folder, measurement, step, trainer.steps_per_epoch), "")
                    for line in measures.failures(measurement, step):
                        reporter.note(f"{jobs[run].name}: {line}; training goes on")
                    if measurement.starts is not None:
                        positions[run] = positions[run]._replace(starts=measurement.starts)
                    accounting.measured(run, names)
                    if step in milestones.stored or ends:
                        save(step, [run])
                if ends:
                    _end(jobs[run], "done", step, reason, checkpoints.steps(managers[run]))
                    accounting.finished(run, step)
                    active.remove(run)
            if not active:
                break
            # Only now, for a checkpoint promises that what was measured up to its step is on disk.
            if step != start and step not in milestones.stored and (progress.asked_to_stop() or is_due()):
                save(step, active)
            progress.stop_if_asked()


def train(
    shared: Compiled, positions: Sequence[Position], hyperparams: Sequence[Hyperparams], start: int, stop: int
) -> Iterator[tuple[int, list[Position]]]:
    """Train from `start` to `stop` in blocks of a few seconds, so that the host can report and save in between.

    The clock is that of the writer, for every process must run the same blocks.
    """
    positions, size = list(positions), shared.trainer.steps_per_epoch
    while start < stop:
        block_stop = min(start + size, stop)
        began = time.monotonic()
        states = [position.state for position in positions]
        states = train_runs(shared.trainer, states, hyperparams, shared.splits["train"], start, block_stop)
        jax.block_until_ready(states)
        seconds = max(time.monotonic() - began, 1e-6)
        size = processes.agreed(max(1, min(int((block_stop - start) * SECONDS_PER_BLOCK / seconds), 10 * size)))
        positions = [p._replace(state=state) for p, state in zip(positions, states, strict=True)]
        start = block_stop
        yield start, positions


def mirror(
    job: Job, start: int | None, note: Callable[[str], None]
) -> contextlib.AbstractContextManager[writers.Mirror]:
    """What gives a line to the metric writers of `job`, which goes on from step `start`."""
    if not job.config.writers or not processes.is_writer():
        return contextlib.nullcontext(lambda line, before: None)
    return writers.opened(job.config.writers, job.folder, schema.plain(job.config), start, note)


def evaluate(folder: Path, state: EvalState, step: int) -> dict[str, Any]:
    """Write loss and accuracy of the whole training split to `eval.jsonl`; the line."""
    loss, accuracy = losses_and_accuracies(state, ["train"])["train"]
    line = {"step": step, "train_loss": loss, "train_accuracy": accuracy}
    processes.in_writer(partial(run_folder.append_line, folder / "eval.jsonl", line))
    return line


@by_writer
def record(folder: Path, measurement: Measurement, step: int, steps_per_epoch: int) -> dict[str, Any]:
    """Write arrays and failures first, then the line of metrics, so that what a line lacks is always explained."""
    run_folder.require_there(folder)
    for name, content in measurement.arrays.items():
        write_arrays(folder / "spectra" / f"{step}-{name}.npz", content)
    if measurement.failed:
        failed = [{"measure": name, "step": step, "reason": reason} for name, reason in measurement.failed.items()]
        before = [one for one in run_folder.read_manifest(folder).get("failed_measures", []) if one["step"] != step]
        run_folder.write_manifest(folder, failed_measures=before + failed)
    line = {"step": step, "epoch": step / steps_per_epoch, **measurement.scalars}
    run_folder.append_line(folder / "metrics.jsonl", line)
    run_folder.seal(folder)
    return line


def make_eval_state(
    config: RunConfig, shared: Compiled, position: Position, first_params: Callable[[], Any]
) -> EvalState:
    """What the measures see at a position of a run; `first_params` makes the weights that it started from."""
    params, batch_stats = shared.trainer.eval_params(position.state, shared.splits["train"])
    return EvalState(
        shared.trainer.model,
        params,
        batch_stats,
        shared.splits,
        shared.trainer.num_classes,
        config.train.loss,
        config.train.label_smoothing,
        measures.make_protocol(config.measure),
        position.starts,
        config.devices,
        first_params,
        plain(config.data),
        position.state.opt_state,
        {
            **dict(config.optim.settings),
            **{name: getattr(config.optim, name) for name in ("name", "lr", "sam_radius")},
            "schedule": config.schedule.name,
            "batch_size": config.train.batch_size,
            "step": position.state.step,
        },
    )


def _state_of_run(job: Job, shared: Compiled, position: Position) -> EvalState:
    return make_eval_state(job.config, shared, position, partial(checkpoints.first_params, job, shared.trainer))


def _is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


@by_writer
def _begin(job: Job, shared: Compiled, position: Position, step: int | None, together: int) -> None:
    """Write the manifest of a run that begins, or goes on from `step`, and drop what was written after."""
    old, config, dataset = run_folder.read_manifest(job.folder), job.config, shared.dataset
    normalised = has_batch_norm(position.state.batch_stats)
    train = dataset.train
    guess = float(loss_of_best_guess(config.train.loss, train["labels"], dataset.num_classes, train.get("weights")))
    run_folder.write_manifest(
        job.folder,
        **hardware.environment(),
        status="running",
        reason=None,
        started=old.get("started", run_folder.now()),
        finished=None,
        resumed_from=[*old.get("resumed_from", []), *([] if step is None else [step])],
        placement=[
            *old.get("placement", []),
            {"from_step": step or 0, **hardware.placement(config.devices, config.fsdp)},
        ],
        digests=run_folder.digests_until(job.folder, step),
        failed_measures=[one for one in old.get("failed_measures", []) if step is not None and one["step"] <= step],
        data_checksum=dataset.checksum,
        data=dataset.description,
        examples={name: len(split["labels"]) for name, split in dataset._asdict().items() if isinstance(split, dict)},
        num_params=shared.trainer.num_params,
        best_guess_loss=None if math.isnan(guess) else guess,
        seeds={"training": config.seed, "split": config.data.split_seed, "probes": config.measure.seed},
        matmul_precision=numerics.precision_on(hardware.platform(()), config.measure.precision),
        training_matmul_precision=config.train.precision,
        batch_norm_mode=" and ".join(config.measure.modes) if normalised else "none in this model",
        batch_stats_size=(config.measure.batch_stats_size or "all measured examples") if normalised else None,
        runs_together=together,
    )
    run_folder.cut_back(job.folder, step)


@by_writer
def _end(job: Job, status: str, step: int, reason: str | None, saved: Sequence[int] = ()) -> None:
    run_folder.seal(
        job.folder,
        status=status,
        steps=step,
        reason=reason,
        finished=run_folder.now(),
        checkpoints=list(saved),
        redo_from=None,
    )
