"""The runs of a sweep as a queue: what each costs and needs, how far it is, and how several machines share them.

Nothing here writes anything, and nothing is trained.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hessflat.runs import run_folder
from hessflat.runs.cost_model import RunCost, run_cost
from hessflat.runs.jobs import Job, levels, needs
from hessflat.utils.errors import DamagedError, InputError

# What a run is, as its folder says.
STATUSES = ("done", "running", "waiting", "stopped", "failed", "diverged", "damaged")
# Of these, the ones that the same command goes on with and whose time is known.
UNFINISHED = ("running", "waiting", "stopped", "failed")


class State(NamedTuple):
    """How far a run is."""

    status: str  # one of `STATUSES`
    reason: str = ""
    step: int | None = None  # of its last measurement
    seconds: float | None = None  # from its beginning to its end; None where it has none or was interrupted


class Entry(NamedTuple):
    """A run of the queue."""

    job: Job
    wave: int  # 1 where it needs no other of them, 2 where it needs some of these, and so on
    needs: tuple[Path, ...]
    cost: RunCost
    state: State


def entries(jobs: Sequence[Job]) -> list[Entry]:
    """The queue of a sweep, wave by wave.

    Raises:
        InputError: data that are neither published nor there; runs that need one another.
    """
    others = needs(jobs)
    return [
        Entry(job, number, tuple(sorted(others[job.folder])), run_cost(job.config), state_of(job.folder))
        for number, wave in enumerate(levels(jobs), 1)
        for job in wave
    ]


def state_of(folder: Path) -> State:
    """How far the run of a folder is. One that says that it is running and that no process holds has stopped."""
    live = run_folder.is_live(folder)
    try:
        manifest = run_folder.read_manifest(folder)
    except DamagedError as error:
        return State("damaged", str(error))
    status, reason = manifest.get("status", "waiting"), manifest.get("reason") or ""
    if status in run_folder.FINISHED:
        if not live and (found := run_folder.problems(folder)):
            return State("damaged", f"{run_folder.in_words(found)}; to mend it: {run_folder.mending(folder, found)}")
        return State(status, reason, manifest.get("steps"), _seconds(manifest))
    if live:
        status, reason = "running", ""
    elif status == "running":
        status, reason = "stopped", "its process is gone"
    return State(status, reason, _last_step(folder))


def _last_step(folder: Path) -> int | None:
    try:
        lines = run_folder.read_lines(folder / "metrics.jsonl")
    except InputError:
        return None
    return lines[-1]["step"] if lines else None


def _seconds(manifest: Mapping) -> float | None:
    if manifest.get("resumed_from") or not manifest.get("started") or not manifest.get("finished"):
        return None
    began, ended = (datetime.datetime.fromisoformat(manifest[name]) for name in ("started", "finished"))
    return (ended - began).total_seconds() / manifest.get("runs_together", 1)


def seconds_left(queue: Sequence[Entry]) -> float | None:
    """That unfinished runs take if as many go side by side as do now, at least one, and each goes to its last step.

    From what finished ones took beside their cost; None where none of them went from its beginning to its end in one.
    """
    left = [entry for entry in queue if entry.state.status in UNFINISHED]
    if not left:
        return 0.0
    took = [(entry.state.seconds, _cost_until(entry)) for entry in queue if entry.state.seconds]
    if not took:
        return None
    seconds, cost = (sum(column) for column in zip(*took, strict=True))
    remaining = sum(entry.cost.total_seconds() - _cost_until(entry) for entry in left)
    return remaining * seconds / cost / max(1, sum(entry.state.status == "running" for entry in left))


def _cost_until(entry: Entry) -> float:
    """What a run has cost until its last measurement."""
    step = entry.state.step
    return 0.0 if step is None else entry.cost.total_seconds() - entry.cost.remaining_seconds(step)


def split(jobs: Sequence[Job], costs: Mapping[Path, float], count: int) -> list[list[Job]]:
    """The jobs in `count` parts of about the same cost, the dearest job first to the part that has least."""
    parts: list[list[Job]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for job in sorted(jobs, key=lambda job: -costs[job.folder]):
        least = loads.index(min(loads))
        parts[least].append(job)
        loads[least] += costs[job.folder]
    return parts


def share(jobs: Sequence[Job], number: int, count: int) -> list[Job]:
    """Share `number`, 1 to `count`, of a sweep: a part of each wave, and whatever runs that part needs.

    Which runs are in it depends on the sweep alone, so that the shares together are the sweep. Two shares may need the
    same run: one of them runs it and the other waits for it.
    """
    costs = {job.folder: run_cost(job.config).total_seconds() for job in jobs}
    own = [job for wave in levels(jobs) for job in split(wave, costs, count)[number - 1]]
    return with_needs(own, jobs, needs(jobs))


def with_needs(own: Sequence[Job], jobs: Sequence[Job], others: Mapping[Path, set[Path]]) -> list[Job]:
    """Those of `jobs` that are `own`, or that these need, or that those need, in the order of `jobs`.

    `others` are what each needs, by folder; see `jobs.needs`.
    """
    wanted, new = set[Path](), {job.folder for job in own}
    while new:
        wanted |= new
        new = {other for folder in new for other in others[folder]} - wanted
    return [job for job in jobs if job.folder in wanted]
