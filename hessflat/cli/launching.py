"""What sweep, experiment and reproduce share: where their runs are run, and how far these are."""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from hessflat.analysis.experiment import Table
from hessflat.analysis.tables import as_text
from hessflat.cli import app
from hessflat.config import one_of, require
from hessflat.launch import places, pool, queue, slurm
from hessflat.launch.queue import STATUSES, Entry
from hessflat.launch.slurm import Task
from hessflat.runs.cost_model import run_cost
from hessflat.runs.jobs import Job, levels, needs, reserved
from hessflat.utils import progress
from hessflat.utils.errors import InputError

# Flags of the commands, with their defaults. An array has at most `tasks` tasks, which SLURM limits to 1,000 or so.
FLAGS = {"launch": "local", "tasks": "1000", "status": "0"}


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments that are no options of SLURM, and those that are, `--slurm.NAME=VALUE`."""
    mine = [argument for argument in argv if argument.startswith("--slurm.")]
    return [argument for argument in argv if argument not in mine], mine


def to_slurm(own: Mapping[str, str], sbatch: Sequence[str]) -> bool:
    """Whether runs go to SLURM.

    Raises:
        InputError: another place than there is; options of SLURM for another.
    """
    require("--launch", own["launch"], one_of(("local", "slurm")))
    if sbatch and own["launch"] != "slurm":
        raise InputError(f"{sbatch[0]} is for --launch=slurm; add that, or leave it out")
    return own["launch"] == "slurm"


def total_seconds(jobs: Sequence[Job]) -> float:
    """What runs cost by the cost model."""
    return sum(run_cost(job.config).total_seconds() for job in jobs)


def run(jobs: Sequence[Job], workers: str, anew: bool) -> str:
    """Run them on this machine, with progress shown; see `pool.run_all`."""
    gpus = places.leave_gpus(workers)
    with progress.reporting(total_seconds(jobs)) as reporter:
        return pool.run_all(jobs, reporter, workers, anew, gpus)


def submit(jobs: Sequence[Job], root: Path, name: str, own: Mapping[str, str], sbatch: Sequence[str]) -> None:
    """Submit to SLURM what is neither finished nor being run, and say what was submitted."""
    if not own["tasks"].isdecimal() or int(own["tasks"]) < 1:
        raise InputError(f"--tasks must be a whole number of at least 1, got {own['tasks']!r}")
    if app.is_set(own, "anew"):
        raise InputError("--anew is for --launch=local, where you see what is lost; leave it out")
    options = slurm.options(sbatch)
    with reserved(jobs):
        costs = {job.folder: run_cost(job.config).total_seconds() for job in jobs}
        left = {job.folder for job in jobs if queue.state_of(job.folder).status not in ("done", "diverged", "running")}
        others, waves = needs(jobs), []
        for wave in ([job for job in wave if job.folder in left] for wave in levels(jobs)):
            parts = queue.split(wave, costs, min(len(wave), int(own["tasks"])))
            seconds = [sum(costs[job.folder] for job in part) for part in parts]
            tasks = [queue.with_needs(part, jobs, others) for part in parts]
            waves.append([Task(*task) for task in zip(tasks, seconds, strict=True)])
        submitted = slurm.submit(run_task, [wave for wave in waves if wave], root / "slurm", name, options)
    for number, array in enumerate(submitted, 1):
        then = f", after array {submitted[number - 2].id}" if number > 1 else ""
        print(f"array {array.id}: {_counted(array.tasks, 'task')} of at most {array.limit}{then}")
    print(f"{_counted(len(left), 'run')} submitted, {len(jobs) - len(left)} finished or under way; see --status")
    if submitted:
        print(f"logs: {root / 'slurm'}; the same command again submits what is left")


def run_task(jobs: list[Job]) -> None:
    """What a task of SLURM does: run its jobs, as every other command does."""
    warned = threading.Event()
    try:
        with app.guarded(stoppable=True):
            slurm.note_warning(warned)
            run(jobs, "auto", False)
    except SystemExit as ending:
        if ending.code == os.EX_TEMPFAIL and warned.is_set():
            slurm.requeue()
        raise


def listing(jobs: Sequence[Job]) -> Table:
    """A row for each run of a sweep, wave by wave."""
    rows = [
        (
            str(entry.job.folder),
            str(entry.wave),
            f"{entry.cost.total_seconds():.3g}",
            _status(entry),
            " ".join(folder.name for folder in entry.needs) or "–",
        )
        for entry in queue.entries(jobs)
    ]
    caption = (
        "The runs of a wave need only runs of earlier waves. Costs are seconds on two cores, without compilation, "
        "from the operations that XLA counts. Elsewhere their ratios hold."
    )
    return Table(caption, ("run", "wave", "cost", "status", "needs"), tuple(rows))


def status(groups: Sequence[tuple[str, Sequence[Job]]]) -> str:
    """How far the runs of sweeps or experiments are: a row for each, then each run that failed, with the reason."""
    queues = [(name, queue.entries(jobs)) for name, jobs in groups if jobs]
    every = [entry for _, found in queues for entry in found]
    rows = [_summary(name, found) for name, found in [*queues, *([("all", every)] if len(queues) > 1 else [])]]
    caption = (
        "Time left is that of the runs that are running, waiting, stopped or failed, each to its last step, with as "
        "many side by side as now. It follows from what finished runs took; – means that none has finished."
    )
    table = as_text(Table(caption, ("", "runs", *STATUSES, "time left"), tuple(rows)))
    told = [
        f"{entry.job.folder}: {_status(entry)}"
        for entry in every
        if entry.state.status in ("failed", "diverged", "damaged")
    ]
    return "\n".join([table, *(["", *told] if told else [])])


def _summary(name: str, found: Sequence[Entry]) -> tuple[str, ...]:
    counts = [sum(entry.state.status == status for entry in found) for status in STATUSES]
    left = queue.seconds_left(found)
    return name, str(len(found)), *map(str, counts), "–" if left is None else progress.clock(left)


def _status(entry: Entry) -> str:
    reason = entry.state.reason if entry.state.status != "done" else ""
    return f"{entry.state.status} ({reason})" if reason else entry.state.status


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
