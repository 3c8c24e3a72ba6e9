"""Measure hessflat and every peer that is installed, in turn, in one run.

    python -m benchmarks.run [--only=W1,W2] [--peers=curvlinops,matfree] [--repeats=5] [--scale=full|smoke]
                             [--first=1] [--limit=900] [--budget=SECONDS] [--out=FILE] [--gpu]

--only: beginnings of workloads' ids (W6 is W6a and W6b; products; basis; device). --peers: by default all.
--repeats: at most, slow workloads take fewer. --first: how many first calls, each in a new process. --limit: seconds
that one call may take. --budget: seconds after which nothing is begun; a minute later what still runs is stopped.
--out: where results go, beside the other workloads that the file already holds of the same machine and versions. A
whole run goes to benchmarks/results/ by itself. While it runs, results are in a file ending in .part.
--gpu: with what only an accelerator can say, three repeats, and ten minutes at most.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import goals, machine, tables
from benchmarks.agreement import disagreements
from benchmarks.contenders import ENTRIES, OURS, Entry
from benchmarks.process import ROOT, ContenderError, Process, environment
from benchmarks.results import RESULTS, join, write
from benchmarks.workloads import DEFAULT, ON_DEVICE, WORKLOADS, Workload, chosen, problem_of, steps_of
from hessflat import arguments
from hessflat.errors import InputError, require_known

_COMPARED = ("lanczos", "exact", "largest")
_GRACE = 60.0  # seconds beyond the budget for what has been begun


@dataclass(frozen=True)
class Options:
    """The command's arguments."""

    workloads: list[Workload]
    peers: list[str] | None  # None takes all
    repeats: int
    firsts: int
    limit: float
    budget: float
    scale: str
    out: str
    is_whole: bool


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    results = run(options)
    print(tables.text(results))
    if path := _path(options, results):
        if options.out and path.exists():
            results = join(json.loads(path.read_text()), results)
            results["goals"] = _judged(results)
        write(path, results)
        _partial(path).unlink(missing_ok=True)
        print(f"\n{path} is written; python -m benchmarks.document brings docs/benchmarks.md up to date")


def parse(argv: Sequence[str]) -> Options:
    on_gpu = "--gpu" in argv
    defaults: dict[str, str | None] = {
        "only": ",".join(ON_DEVICE if on_gpu else DEFAULT),
        "peers": "all",
        "repeats": "3" if on_gpu else "5",
        "first": "1",
        "limit": "240" if on_gpu else "900",
        "budget": "500" if on_gpu else "1e9",
        "scale": "full",
        "out": "",
    }
    given, settings = arguments.parse([a for a in argv if a != "--gpu"], defaults)
    if settings:
        raise InputError(f"the benchmark has no configuration; leave out {settings[0]}")
    require_known("scale", [given["scale"]], ["full", "smoke"])
    names = given["only"].split(",")
    for name in names:
        if not chosen([name]):
            require_known("workload", [name], WORKLOADS)
    peers = (
        None if given["peers"] == "all" else re.split(r",(?! )", given["peers"])
    )  # names may hold a comma and a space
    require_known("peer", peers or [], [entry.name for entry in ENTRIES])
    return Options(
        workloads=chosen(names),
        peers=peers,
        repeats=int(number_of("repeats", given["repeats"])),
        firsts=int(number_of("first", given["first"])),
        limit=number_of("limit", given["limit"]),
        budget=number_of("budget", given["budget"]),
        scale=given["scale"],
        out=given["out"],
        is_whole=all(given[name] == defaults[name] for name in ("only", "peers", "scale")),
    )


def run(options: Options) -> dict[str, Any]:
    """Everything that was measured; see `benchmarks.results`."""
    began = time.monotonic()
    progress = Progress(options.workloads, began + options.budget)
    results: dict[str, Any] = {"scale": options.scale, "rows": [], "versions": {}, "skipped": []}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        progress.say("weights and data")
        _make_problems(options, Path(folder))
        for workload in options.workloads:
            if time.monotonic() > progress.deadline:
                results["skipped"].append(workload.id)
                continue
            rows, versions = measure(workload, options, Path(folder), progress)
            results["rows"] += rows
            results["versions"] |= versions
            _finish(results, options, time.monotonic() - began)
    _finish(results, options, time.monotonic() - began)
    return results


def _finish(results: dict[str, Any], options: Options, seconds: float) -> None:
    """Judge what there is and store it: a run that is stopped keeps the workloads it has done."""
    devices = [row["device"] for row in results["rows"] if row.get("device") and row["contender"].startswith(OURS)]
    results["machine"] = machine.describe(devices[0] if devices else "cpu")
    results["versions"] = dict(sorted(results["versions"].items()))
    results["seconds"] = seconds
    results["goals"] = _judged(results)
    if path := _path(options, results):
        write(_partial(path), results)


def _judged(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [goal._asdict() for goal in goals.judge(results)] if results["scale"] == "full" else []


def _path(options: Options, results: dict[str, Any]) -> Path | None:
    """Where results go: those of a whole run beside the others, any other's nowhere unless asked."""
    if options.out:
        return Path(options.out)
    return RESULTS / f"{machine.slug(results['machine'])}.json" if options.is_whole else None


def _partial(path: Path) -> Path:
    return path.with_suffix(".part")


def measure(
    workload: Workload, options: Options, folder: Path, progress: "Progress"
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One workload: first calls, agreement, then repeats in which every contender is run once in turn."""
    rows = {entry.name: _new_row(workload, entry, options.scale) for entry in _taking_part(workload, options)}
    versions: dict[str, str] = {}
    progress.begin(workload)
    for number in range(options.firsts):
        with _processes(workload, rows, options, folder) as processes:
            for name, process in processes.items():
                with _failure_noted(rows[name]):
                    about = process.loaded(progress.patience(options.limit))
                    versions |= about.pop("versions")
                    rows[name] |= about
            for name, process in _running(processes, rows):
                with _failure_noted(rows[name]):
                    reply = process.ask("first", progress.patience(options.limit))
                    rows[name]["first"].append(reply.pop("seconds"))
                    rows[name] |= {key: reply[key] for key in ("values", "num_products", "peak_bytes", "memory_of")}
                    rows[name]["before_bytes"] = reply["before_bytes"]
                    if not workload.most_repeats:
                        rows[name]["parts"] = {part: [value] for part, value in reply["parts"].items()}
                    progress.say(f"{workload.id} {name}: first call {rows[name]['first'][-1]:.2f} s")
            if number + 1 < options.firsts:
                continue
            if workload.task in _COMPARED:
                _compare(workload, processes, rows, options, progress)
            _repeat(workload, processes, rows, options, progress)
    progress.end(workload)
    return [_tidy(row) for row in rows.values()], versions


def _compare(
    workload: Workload,
    processes: dict[str, Process],
    rows: dict[str, dict[str, Any]],
    options: Options,
    progress: "Progress",
) -> None:
    for name, process in _running(processes, rows):
        with _failure_noted(rows[name]):
            rows[name]["check"] = process.ask("check", progress.patience(options.limit))
    compared = [row for row in rows.values() if row["status"] == "ok"]
    for name, problem in disagreements(compared, workload.values_tolerance).items():
        rows[name] |= {"status": "disagrees", "message": problem}


def _repeat(
    workload: Workload,
    processes: dict[str, Process],
    rows: dict[str, dict[str, Any]],
    options: Options,
    progress: "Progress",
) -> None:
    repeats = min(options.repeats, workload.most_repeats)
    deadline = progress.deadline_of(workload)
    for repeat in range(repeats):
        turn = _running(processes, rows)
        shift = repeat % max(len(turn), 1)
        # The order moves on by one each time, so that nobody always follows the same neighbour.
        for name, process in turn[shift:] + turn[:shift]:
            if repeat and time.monotonic() > deadline:
                return
            with _failure_noted(rows[name]):
                reply = process.ask("run", progress.patience(options.limit))
                rows[name]["seconds"].append(reply["seconds"])
                rows[name]["gradient"].append(reply["gradient"])
                rows[name]["num_products"] = reply["num_products"]
                for part, value in reply["parts"].items():
                    rows[name]["parts"].setdefault(part, []).append(value)
                progress.say(f"{workload.id} {repeat + 1}/{repeats} {name}: {reply['seconds']:.2f} s")
        progress.advance(workload, (repeat + 1) / repeats)


def _new_row(workload: Workload, entry: Entry, scale: str) -> dict[str, Any]:
    missing = entry.missing()
    return {
        "workload": workload.id,
        "contender": entry.name,
        "framework": entry.framework,
        "published": entry.published,
        "status": "not installed" if missing else "ok",
        "message": f"needs {', '.join(missing)}" if missing else "",
        "parameters": problem_of(workload, scale).size,
        "steps": steps_of(workload, scale),
        "first": [],
        "seconds": [],
        "gradient": [],
        "parts": {},
    }


def _taking_part(workload: Workload, options: Options) -> list[Entry]:
    wanted = options.peers
    able = [entry for entry in ENTRIES if entry.takes(workload)]
    return [entry for entry in able if wanted is None or entry.name in wanted or entry.name.startswith(OURS)]


@contextmanager
def _processes(
    workload: Workload, rows: dict[str, dict[str, Any]], options: Options, folder: Path
) -> Iterator[dict[str, Process]]:
    file = folder / f"{workload.problem}.npz"
    processes = {
        name: Process(name, workload.id, options.scale, file, folder / f"{name}.log")
        for name, row in rows.items()
        if row["status"] == "ok"
    }
    try:
        yield processes
    finally:
        for process in processes.values():
            process.stop()


@contextmanager
def _failure_noted(row: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except ContenderError as failure:
        row |= {"status": "failed", "message": str(failure)}


def _running(processes: dict[str, Process], rows: dict[str, dict[str, Any]]) -> list[tuple[str, Process]]:
    return [(name, process) for name, process in processes.items() if rows[name]["status"] != "failed"]


def _tidy(row: dict[str, Any]) -> dict[str, Any]:
    """Of all eigenvalues only the ends are worth storing."""
    values = row.get("values") or []
    return row | {"values": [values[0], values[-1]] if len(values) > 1 else values}


def _make_problems(options: Options, folder: Path) -> None:
    names = dict.fromkeys(workload.problem for workload in options.workloads)
    command = [sys.executable, "-m", "benchmarks.problems", str(folder), options.scale, *names]
    subprocess.run(command, check=True, cwd=ROOT, env=environment(options.scale))


def number_of(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise InputError(f"--{name} must be a number above 0, got {text!r}")
    return value


class Progress:
    """Lines on standard error with the time left, which is that of finished workloads scaled by their costs."""

    def __init__(self, workloads: list[Workload], deadline: float) -> None:
        self.deadline = deadline
        self.costs = {w.id: w.cost * (2 + min(w.most_repeats, 5)) for w in workloads}
        self.total, self.done, self.current = sum(self.costs.values()), 0.0, 0.0
        self.began = time.monotonic()

    def begin(self, workload: Workload) -> None:
        self.current = 0.0

    def advance(self, workload: Workload, share: float) -> None:
        self.current = self.costs[workload.id] * (0.4 + 0.6 * share)

    def end(self, workload: Workload) -> None:
        self.done += self.costs[workload.id]
        self.current = 0.0

    def deadline_of(self, workload: Workload) -> float:
        """Of what is left until the deadline, this workload's share by cost."""
        now = time.monotonic()
        return now + (self.deadline - now) * self.costs[workload.id] / max(self.total - self.done, 1e-9)

    def patience(self, limit: float) -> float:
        """Seconds that a call may take now, at most `limit`."""
        left = self.deadline + _GRACE - time.monotonic()
        if left <= 0:
            raise ContenderError("left out for want of time")
        return min(limit, left)

    def say(self, line: str) -> None:
        done, elapsed = self.done + self.current, time.monotonic() - self.began
        left = "" if done == 0 else f", about {_duration(elapsed / done * (self.total - done))} left"
        print(f"[{_duration(elapsed)}{left}] {line}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    # Stopped from outside, it still ends its processes and removes its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
