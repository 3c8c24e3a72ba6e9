"""Where cases work: folders of their own, undisturbed runs to compare with, and commands in groups of processes."""

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.chaos.tiny import SHORT, final_state, run_all, tiny
from hessflat.analysis.results import Run, load_run
from hessflat.runs import loop
from hessflat.runs.jobs import make_jobs
from hessflat.utils import progress

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds that a command may take
_PROGRESS = re.compile(r" *\d+% +\d+:\d\d")
SAME, NAMED = "same bits", "named"


class Case(NamedTuple):
    """What a case is given: random numbers of its own and an empty folder."""

    number: int
    numbers: random.Random
    place: Path
    workshop: "Workshop"


class Workshop:
    """A temporary folder, with one finished run in it that is read alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ) | {"HESSFLAT_CACHE": str(folder / "compiled"), "PYTHONPATH": str(ROOT)}
        self.environment.pop("HESSFLAT_DEBUG", None)
        # Comparing runs compiles in this process, which threads must not do at once.
        self.lock = threading.RLock()
        # What several cases are compared with is made once.
        self.lock_of: dict[str, threading.RLock] = collections.defaultdict(threading.RLock)
        self.chosen = tiny(*SHORT)
        self._whole: Run | None = None
        self._state: Any = None

    @property
    def whole(self) -> Run:
        """The finished run."""
        with self.lock:
            if self._whole is None:
                self._whole = load_run(run_all([self.chosen], self.folder / "whole")[0])
            return self._whole

    @property
    def state(self) -> Any:
        """The state that the finished run ended with."""
        with self.lock:
            if self._state is None:
                self._state = final_state(self.whole.folder)
            return self._state

    def copy(self, place: Path) -> Path:
        """The run again, to be damaged."""
        folder = place / "runs" / self.whole.folder.parent.name / self.whole.folder.name
        shutil.copytree(self.whole.folder, folder)
        return folder

    def run_again(self, folder: Path, thorough: bool = False) -> tuple[list[str], list[str]]:
        """What the command that made a run does when it is given again; its notes, and what it could not mend."""
        notes: list[str] = []
        reporter = progress.silent()._replace(note=notes.append)
        with self.lock:
            jobs = make_jobs([self.chosen], folder.parents[1])
            return notes, loop.run_all(jobs, reporter, thorough=thorough)


class Command:
    """A command of the product in a session of its own, so that nothing of it outlives the case."""

    def __init__(self, workshop: Workshop, arguments: Sequence[str], limit: int = 0, devices: int = 0) -> None:
        """With at most `limit` file descriptors, on so many virtual `devices`; 0 is as it is."""
        command = [sys.executable, "-m", "hessflat", *arguments]
        if limit:
            command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command]
        environment = workshop.environment
        if devices:
            flags = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
            environment = environment | {"XLA_FLAGS": flags.strip()}
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,
        )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.said.close()

    def ended_within(self, seconds: float) -> bool:
        """Wait for its end, so long at most."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def result(self) -> tuple[int, list[str]]:
        """Its exit status and the lines of standard error, those of progress left out, once it has ended."""
        status = self.process.wait(PATIENCE)
        self.said.seek(0)
        return status, [line for line in self.said.read().splitlines() if not _PROGRESS.match(line)]

    def leaves_nothing(self, seconds: float = 30.0) -> bool:
        """Whether every process of its session ends within so many seconds."""
        deadline = time.monotonic() + seconds
        while _members(self.process.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def _members(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of a size.

    Raises:
        PermissionError: none can be mounted here.
    """
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True, capture_output=True)
