"""The other runs that a run needs: the one whose weights it starts from, the one that it takes as many steps as.

Both are named by their folder, or by the settings that they have in place of this run's own.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hessflat.config import flatten, plain, thaw, with_arguments
from hessflat.runs import run_folder
from hessflat.runs.jobs import Job
from hessflat.runs.schema import freeze, identity, replace
from hessflat.utils.errors import InputError

# The settings that name another run.
NAMING = ("train.from_run", "stop.with_run")


class OtherRun(NamedTuple):
    """A run by its folder, and what stands after `@` in `train.from_run`: a step that it has a checkpoint of."""

    folder: Path
    at: str = ""


def named_run(job: Job, setting: str) -> OtherRun | None:
    """The run that `setting` of `job` names as `RUN` or `NAME=VALUE,NAME=VALUE`, in `train.from_run` also `…@STEP`.

    By settings it is the run that differs from `job` in these alone, and in that it names no run by `setting`, so that
    one text serves every seed of a sweep. Raises `InputError` where that is `job` itself.
    """
    name, at = flatten(plain(job.config))[setting], ""
    if setting == "train.from_run" and (found := re.fullmatch(r"(.*)@([\w,]*)", name)):
        name, at = found.groups()
    if name.partition("=")[0].strip() not in flatten(thaw(job.config)):
        return OtherRun(Path(name), at) if name else None
    # A comma also stands in tuples; between settings a name and = follow it.
    settings = [f"--config.{part.strip()}" for part in re.split(r",(?=\s*[a-z][\w.]*=)", name)]
    alone = replace(job.config, {setting: ""})
    other = freeze(with_arguments(thaw(alone), settings))
    if other == alone:
        raise InputError(f"config.{setting}: {name} is so in this run itself; name settings in which the other differs")
    return OtherRun(run_folder.path_of(plain(other), identity(other), job.folder.parents[1]), at)


def manifest_of_finished(folder: Path, setting: str) -> dict[str, Any]:
    """The manifest of a run that `setting` names and that has reached its end; any other is refused."""
    manifest = run_folder.read_manifest(folder)
    if manifest.get("status") != "done":
        raise InputError(
            f"config.{setting}: {folder} is {manifest.get('status', 'not there')}; it must be a finished run, "
            "so run it first, or in the same sweep"
        )
    return manifest


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that need no other of them, then those that need only these, and so on."""
    by_folder = {job.folder.resolve(): job for job in jobs}
    needed = {}
    for folder, job in by_folder.items():
        named = [other.folder.resolve() for setting in NAMING if (other := named_run(job, setting))]
        needed[folder] = {other for other in named if other in by_folder}
    found: list[list[Job]] = []
    left = dict(needed)
    while left:
        ready = [folder for folder, others in left.items() if not others & left.keys()]
        if not ready:
            raise InputError(
                f"{next(iter(left.values())).pop()} needs itself to be finished: see config.train.from_run and "
                "config.stop.with_run of the runs that it names; let one of them name another run"
            )
        found.append([by_folder[folder] for folder in ready])
        left = {folder: others for folder, others in left.items() if folder not in ready}
    return found
