"""Runs as job arrays of SLURM, submitted through submitit.

A task that is warned before its time is up saves and asks SLURM to put it back into the queue; one that SLURM takes the
machine from saves too, and SLURM puts it back by itself. A task ends with 0 where its runs are finished, with 2 where
the input is wrong, and with 75 where it was stopped; see `cli.app.guarded`.
"""

import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hessflat.runs.jobs import Job
from hessflat.utils.errors import InputError

# A task may take this many times what the cost model says on two cores, within these bounds. One that takes longer
# goes on where it stopped.
FACTOR = 4.0
MINUTES = (30, 24 * 60)
# Before the time is up: to save takes seconds, but a block of training has to end first.
SECONDS_OF_WARNING = 120
# Options of sbatch that say what a task is, and not what it needs.
OWN = ("array", "dependency", "error", "open_mode", "output", "requeue", "signal")


class Task(NamedTuple):
    """What one task of an array runs."""

    jobs: list[Job]
    seconds: float  # by the cost model


class Submitted(NamedTuple):
    """An array in the queue."""

    id: str
    tasks: int
    limit: str  # of the time of a task


def minutes(tasks: Sequence[Task]) -> int:
    """The time limit of an array: of the longest of its tasks."""
    least, most = MINUTES
    return min(max(math.ceil(FACTOR * max(task.seconds for task in tasks) / 60), least), most)


def options(arguments: Sequence[str]) -> dict[str, Any]:
    """`--slurm.NAME=VALUE` as options of sbatch by name; one without a value, such as `--slurm.exclusive`, is True.

    Raises:
        InputError: an option that says what a task is.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        name, given, value = argument.removeprefix("--slurm.").partition("=")
        name = name.replace("-", "_")
        if not name or name in OWN or name in found:
            problem = "is given twice" if name in found else "is set by the launcher" if name else "has no name"
            raise InputError(f"{argument} {problem}; leave it out")
        found[name] = value if given else True
    return found


def submit(
    function: Callable[[list[Job]], None],
    waves: Sequence[Sequence[Task]],
    folder: Path,
    name: str,
    sbatch: Mapping[str, Any],
) -> list[Submitted]:
    """An array for each wave, which begins when the one before it has ended, however its tasks ended.

    Args:
        function: what a task calls with its jobs. It must be importable there.
        waves: the tasks of each; none is empty.
        folder: where logs and what submitit writes lie; the whole cluster must see it.
        name: of the arrays, in SLURM's queue.
        sbatch: options by name. `array_parallelism`, the number of tasks at a time, and `setup`, a command of the shell
            before the others, are of submitit; all others of sbatch, which refuses what it does not know.

    Raises:
        InputError: no submitit or no SLURM here; an option that SLURM refuses.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("--launch=slurm needs submitit; run: pip install 'hessflat[slurm]'") from error
    submitted: list[Submitted] = []
    for tasks in waves:
        dependency = {"dependency": f"afterany:{submitted[-1].id}"} if submitted else {}
        parameters = _parameters(name, minutes(tasks), {**sbatch, **dependency})
        before = set(folder.glob("*"))
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                executor = submitit.SlurmExecutor(folder)
                executor.update_parameters(**parameters)
                jobs = executor.map_array(function, [task.jobs for task in tasks])
        except RuntimeError as error:
            for path in set(folder.glob("*")) - before:
                path.unlink()
            with contextlib.suppress(OSError):  # of others
                folder.rmdir()
            said = " ".join(str(error).split())
            raise InputError(
                f"SLURM refused the runs: {said}; see --slurm.NAME=VALUE, and submit from a cluster"
            ) from error
        limit = str(sbatch.get("time", f"{minutes(tasks)} minutes"))
        submitted.append(Submitted(jobs[0].job_id.partition("_")[0], len(tasks), limit))
    return submitted


def _parameters(name: str, limit: int, sbatch: Mapping[str, Any]) -> dict[str, Any]:
    """What submitit is given. It would warn by SIGUSR2, and stop what it runs without asking."""
    others = dict(sbatch)
    mine: dict[str, Any] = {"job_name": name, "time": limit, "stderr_to_stdout": True}
    if "array_parallelism" in others:
        value = others.pop("array_parallelism")
        if not str(value).isdecimal() or int(value) < 1:
            raise InputError(f"--slurm.array_parallelism must be a whole number of at least 1, got {value!r}")
        mine["array_parallelism"] = int(value)
    if "setup" in others:
        mine["setup"] = [others.pop("setup")]
    warning = {"signal": f"USR1@{SECONDS_OF_WARNING}", "requeue": True}
    return {**mine, "additional_parameters": {**warning, **others}}


def note_warning(warned: threading.Event) -> None:
    """From now on SIGUSR1, by which SLURM says that the time will be up, also sets `warned`."""
    before = signal.getsignal(signal.SIGUSR1)

    def handle(number: int, frame: FrameType | None) -> None:
        warned.set()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGUSR1, handle)


def requeue() -> None:
    """Put this task of SLURM back into the queue; where that fails, say so."""
    command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
    try:
        subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        print(f"not put back into the queue ({' '.join(str(said).split())}); submit again", file=sys.stderr, flush=True)
