"""A page of the runs that are under way, served on this machine alone; what it shows, `--status` says too.

Looking writes nothing. The page asks for itself again every few seconds.
"""

import datetime
import functools
import io
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from hessflat.analysis.names import metric_name, number
from hessflat.launch import queue
from hessflat.launch.queue import STATUSES, UNFINISHED, Entry, State
from hessflat.report.page import render
from hessflat.runs import run_folder
from hessflat.runs.cost_model import OVERHEAD, run_cost
from hessflat.runs.jobs import Job
from hessflat.runs.schema import from_plain
from hessflat.utils import progress
from hessflat.utils.errors import InputError

ADDRESS = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 3
# What is drawn of a run over its steps, on a log axis.
CURVES = ("train_loss", "test_loss", "hessian.lambda_max")
_WIDTH, _HEIGHT, _MARGIN = 300, 90, 3
_MOST_POINTS = 300


class Curve(NamedTuple):
    """A metric over the steps of a run: its name, the points of a line, and its first and last value as text."""

    name: str
    points: str
    first: str
    last: str


class Watched(NamedTuple):
    """A run that is not finished."""

    name: str
    status: str
    reason: str
    step: int
    steps: int
    left: str
    curves: Sequence[Curve]


class Group(NamedTuple):
    """The stored runs of an experiment: how many have each status, the time left, and those that are under way."""

    name: str
    counts: Mapping[str, int]
    left: str
    watched: Sequence[Watched]


def serve(root: Path, out: Path, port: int) -> ThreadingHTTPServer:
    """A server of the page on the loopback address, whose `serve_forever` begins; `port` 0 takes a free one.

    Raises:
        InputError: the port is taken, or there is no such port.
    """
    handler = functools.partial(_Handler, root=root, directory=str(out))
    try:
        return ThreadingHTTPServer((ADDRESS, port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot use port {port} of {ADDRESS} ({error}); give another, or --port=0 for any free one"
        ) from error


class _Handler(SimpleHTTPRequestHandler):
    """`/` is the page, `/report/…` the files of a finished report; nothing else is there."""

    def __init__(self, *arguments: Any, root: Path, **named: Any) -> None:
        self.root = root
        super().__init__(*arguments, **named)

    def send_head(self) -> Any:
        # Another site's name may lead here; its pages are not to read this one.
        if (self.headers.get("Host") or "").partition(":")[0] not in (ADDRESS, "localhost"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        if self.path.startswith("/report/"):
            self.path = self.path.removeprefix("/report")
            return super().send_head()
        if self.path != "/":
            return self.send_error(HTTPStatus.NOT_FOUND)
        return self._send_page()

    def _send_page(self) -> Any:
        has_report = (Path(self.directory) / "index.html").is_file()
        content = page(self.root, has_report).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        return io.BytesIO(content)

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments: Any) -> None:
        """Requests are no news."""


def page(root: Path, has_report: bool) -> str:
    """The HTML of the page of the runs below `root`; with a link to the report where there is one."""
    groups, problems = look(root, datetime.datetime.now(datetime.UTC))
    return render(
        "live.html",
        title=f"Runs of {root}",
        root=str(root),
        has_report=has_report,
        groups=groups,
        problems=problems,
        statuses=STATUSES,
        seconds=SECONDS_BETWEEN_LOOKS,
        size=(_WIDTH, _HEIGHT),
    )


def look(root: Path, now: datetime.datetime) -> tuple[list[Group], list[str]]:
    """The experiments that have runs which are not finished, and a line for each folder that cannot be read.

    Args:
        root: the folder of runs, `<experiment>/<run>` below it.
        now: the time from which what is left is counted, with its zone.
    """
    by_experiment: dict[tuple[str, str], list[Job]] = {}
    problems = []
    for path in sorted(root.glob("*/*/config.json")):
        try:
            job = _job(path.parent, path.stat().st_mtime_ns)
        except InputError as error:
            problems.append(str(error))
        else:
            by_experiment.setdefault((path.parent.parent.name, job.config.scale), []).append(job)
    groups = []
    for (name, scale), jobs in by_experiment.items():
        try:
            found = [Entry(job, 1, (), run_cost(job.config), _state(job.folder)) for job in jobs]
        except InputError as error:
            problems.append(f"{name}: {error}")
        else:
            if any(entry.state.status in UNFINISHED for entry in found):
                groups.append(_group(f"{name}, scale {scale}", found, now))
    return groups, problems


@functools.cache
def _job(folder: Path, changed: int) -> Job:
    """The job of a folder whose configuration was `changed` then."""
    return Job(from_plain(run_folder.read_config(folder) or {}), folder)


def _state(folder: Path) -> State:
    """How far a run is. The files of a finished one are compared with its manifest once, not at each look."""
    manifest = folder / "manifest.json"
    if run_folder.is_live(folder) or not manifest.is_file():
        return queue.state_of(folder)
    return _state_since(folder, manifest.stat().st_mtime_ns)


@functools.cache
def _state_since(folder: Path, changed: int) -> State:
    return queue.state_of(folder)


def _group(name: str, found: Sequence[Entry], now: datetime.datetime) -> Group:
    counts = {status: sum(entry.state.status == status for entry in found) for status in STATUSES}
    order = [status for status in STATUSES if status not in ("done", "waiting")]
    shown = sorted((one for one in found if one.state.status in order), key=lambda one: order.index(one.state.status))
    done = [entry for entry in found if entry.state.status == "done"]
    return Group(name, counts, _clock(queue.seconds_left(found)), [_watched(entry, done, now) for entry in shown])


def _watched(entry: Entry, done: Sequence[Entry], now: datetime.datetime) -> Watched:
    """What is shown of a run, beside the finished ones of its experiment."""
    folder, state = entry.job.folder, entry.state
    try:
        every = [line for name in run_folder.GROWING for line in run_folder.read_lines(folder / name)]
    except InputError:  # the state says it
        every = []
    lines = sorted(every, key=lambda line: line["step"])
    step = lines[-1]["step"] if lines else 0
    left = None
    if state.status == "running":
        left = _own_seconds_left(entry, step, now)
        left = queue.seconds_left([*done, entry]) if left is None else left
    curves = [made for name in CURVES if (made := curve(name, lines))]
    return Watched(folder.name, state.status, state.reason, step, entry.cost.num_steps, _clock(left), curves)


def _own_seconds_left(entry: Entry, step: int, now: datetime.datetime) -> float | None:
    """That the run takes from `step` to its last one, from what it took until then; None where it has gone on from a
    checkpoint, or where that is not known yet.
    """
    folder, cost = entry.job.folder, entry.cost
    manifest = run_folder.read_manifest(folder)
    done = cost.total_seconds() - OVERHEAD - cost.remaining_seconds(step)
    if manifest.get("resumed_from") or "started" not in manifest or not step or done <= 0:
        return None
    written = max((folder / name).stat().st_mtime for name in run_folder.GROWING if (folder / name).is_file())
    measured = datetime.datetime.fromtimestamp(written, datetime.UTC)
    took = (measured - datetime.datetime.fromisoformat(manifest["started"])).total_seconds()
    return max(0.0, cost.remaining_seconds(step) * took / done - (now - measured).total_seconds())


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else progress.clock(seconds)


def curve(name: str, lines: Sequence[Mapping[str, Any]]) -> Curve | None:
    """A metric over the steps; None where fewer than two positive numbers of it are there."""
    known = [(line["step"], line[name]) for line in lines if (line.get(name) or 0) > 0]
    if len(known) < 2:
        return None
    every = -(-len(known) // _MOST_POINTS)
    shown = known[:-1:every] + known[-1:]
    (steps, values), last = zip(*shown, strict=True), lines[-1]["step"]
    low, high = math.log(min(values)), math.log(max(values))
    unit = (_HEIGHT - 2 * _MARGIN) / ((high - low) or 1.0)
    places = [
        f"{_MARGIN + step / last * (_WIDTH - 2 * _MARGIN):.1f},{_MARGIN + (high - math.log(value)) * unit:.1f}"
        for step, value in zip(steps, values, strict=True)
    ]
    return Curve(metric_name(name), " ".join(places), number(values[0], 3), number(values[-1], 3))
