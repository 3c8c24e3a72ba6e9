"""What there is to run: configurations with the folders that are theirs, and which of them share a trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from hessflat.config import flatten, plain
from hessflat.config.timetable import steps_of
from hessflat.measures import MEASURES
from hessflat.runs import run_folder
from hessflat.runs.compiled import prepared
from hessflat.runs.schema import RunConfig, from_plain, identity
from hessflat.training.trainer import static_config
from hessflat.utils.errors import InputError

# Above this, one run fills an accelerator by itself.
MOST_PARAMS_TOGETHER = 1_000_000


class Job(NamedTuple):
    """One configuration with the folder that is its own."""

    config: RunConfig
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.config.experiment} l2={self.config.optim.l2:g} seed={self.config.seed}"


def jobs_of(configs: Sequence[RunConfig], root: Path) -> list[Job]:
    """The jobs of checked configurations; two equal ones are refused, for they would share a folder."""
    if not configs:
        raise InputError("the sweep is empty; get_sweep must return at least one entry (an empty one changes nothing)")
    jobs = [Job(c, run_folder.path_of(plain(c), identity(c), root)) for c in configs]
    seen: set[Path] = set()
    for job in jobs:
        if job.folder in seen:
            raise InputError(f"the sweep holds the same run twice ({job.folder.name}); remove one")
        seen.add(job.folder)
    return jobs


def claim(job: Job) -> None:
    """Make the folder the job's, or refuse one that belongs to another configuration or holds anything else."""
    found = run_folder.read_config(job.folder)
    if found is None:
        run_folder.reserve(job.folder, plain(job.config))
        return
    ours, theirs = (flatten(plain(config)) for config in (job.config, from_plain(found)))
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if differing:
        raise InputError(
            f"{job.folder} belongs to another configuration (they differ in {', '.join(differing)}); "
            "nothing was touched: move it away, or use another folder"
        )


def groups_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs whose configurations differ in traced settings alone: each group is compiled once."""
    groups: dict[RunConfig, list[Job]] = {}
    for job in jobs:
        groups.setdefault(static_config(job.config), []).append(job)
    return list(groups.values())


def chunks_of(group: list[Job]) -> list[list[Job]]:
    """Runs that train together. On a CPU vectorising brings nothing, so there they go in turn."""
    config = group[0].config
    execution = config.execution
    if execution == "auto":
        together = jax.default_backend() != "cpu" and prepared(config).trainer.num_params <= MOST_PARAMS_TOGETHER
        execution = "vectorised" if together else "turn"
    return [group] if execution == "vectorised" else [[job] for job in group]


def due_at(config: RunConfig, steps_per_epoch: int, last: int) -> dict[int, frozenset[str]]:
    """What is measured at which step of a run that ends at step `last`, steps in increasing order."""
    steps = {name: set(steps_of(getattr(config.measure, name), steps_per_epoch, last)) for name in MEASURES}
    union = sorted({step for found in steps.values() for step in found} | {last})
    return {step: frozenset(name for name in MEASURES if step in steps[name]) for step in union}


def due_at_end(config: RunConfig) -> frozenset[str]:
    """What is measured at the end of a run, wherever that is."""
    return frozenset(name for name in MEASURES if getattr(config.measure, name) != "never")
