"""Measure hessflat and every peer that is installed, in turn, in one run.

    python -m benchmarks.run [--only=W1,W2] [--peers=curvlinops,matfree] [--repeats=5] [--scale=full|smoke]
                             [--first=1] [--limit=900] [--budget=SECONDS] [--out=FILE] [--long] [--gpu]

--only: beginnings of workloads' ids (W6 is W6a and W6b; products; basis; device). --peers: by default all.
--repeats: at most, slow workloads take fewer. --first: how many first calls, each in a new process. --limit: seconds
that one call may take. --budget: seconds after which nothing is begun; a minute later what still runs is stopped. It is
840 where all is measured that a quarter of an hour has room for. --long: what it has not, above all convolutions.
--out: where results go, beside the other workloads that the file already holds of the same machine and versions. A run
of all workloads, long or not, goes to benchmarks/results/ by itself. While it runs, results are in a file ending in
.part.
--gpu: with what only an accelerator can say, three repeats, and ten minutes at most.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import command, goals, tables
from benchmarks.agreement import disagreements
from benchmarks.contenders import ENTRIES, OURS, Entry
from benchmarks.process import ROOT, ContenderError, Process, environment
from benchmarks.progress import Progress
from benchmarks.results import RESULTS, write
from benchmarks.tables import said_of_choice
from benchmarks.workloads import DEFAULT, LONG, ON_DEVICE, WORKLOADS, Workload, chosen, problem_of, timetable_steps
from hessflat.utils.errors import require_known

_COMPARED = ("lanczos", "exact", "largest", "blocks")
_QUARTER_HOUR = 840  # seconds; a minute later what still runs is stopped
_SEARCHED = ("lanczos", "largest", "blocks")
# What PyTorch's large arrays on a CPU may be taken from: pages that are mapped anew each time, or kept.
_ALLOCATORS = {"": {}, "memory kept": {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0"}}


class Options(NamedTuple):
    """The command's arguments."""

    common: command.Options[Workload]
    peers: list[str] | None  # None takes all
    firsts: int
    limit: float


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    found = run(options)
    print(tables.text(found))
    if path := command.destination(options.common, found, RESULTS):
        command.store(found, path, options.common, _judged)
        _partial(path).unlink(missing_ok=True)
        print(f"\n{path} is written; python -m benchmarks.document brings docs/benchmarks.md up to date")


def parse(argv: Sequence[str]) -> Options:
    others = {"peers": "all", "first": "1", "limit": "240" if "--gpu" in argv else "900"}
    is_long = "--long" in argv
    is_short = not is_long and not any(argument.startswith("--only") for argument in argv)
    common = command.parse(
        [argument for argument in argv if argument != "--long"],
        chosen,
        WORKLOADS,
        default=LONG if is_long else DEFAULT,
        on_device=ON_DEVICE,
        others=others,
        budget=str(_QUARTER_HOUR) if is_short else "1e9",
    )
    given = common.others
    # A peer's name may hold a comma and a space.
    peers = None if given["peers"] == "all" else re.split(r",(?! )", given["peers"])
    require_known("peer", peers or [], [entry.name for entry in ENTRIES])
    return Options(
        common._replace(is_whole=common.is_whole and peers is None),
        peers=peers,
        firsts=int(command.number_of("first", given["first"])),
        limit=command.number_of("limit", given["limit"]),
    )


def run(options: Options) -> dict[str, Any]:
    """Everything that was measured; see `benchmarks.results`."""
    began, common = time.monotonic(), options.common
    progress = Progress(common.workloads, began + common.budget)
    found = command.nothing_yet(common)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        progress.say("weights and data")
        make_problems(common, Path(folder))
        for workload in common.workloads:
            if time.monotonic() > progress.deadline:
                found["skipped"].append(workload.id)
                continue
            rows, versions = measure(workload, found["rows"], options, Path(folder), progress)
            found["rows"] += rows
            found["versions"] |= versions
            _finish(found, common, began)
    return _finish(found, common, began)


def _finish(found: dict[str, Any], options: command.Options, began: float) -> dict[str, Any]:
    """Judge what there is and store it: a run that is stopped keeps the workloads it has done."""
    seconds = time.monotonic() - began
    results = command.finished(found, seconds, _judged, lambda row: row["contender"].startswith(OURS))
    if path := command.destination(options, results, RESULTS):
        write(_partial(path), results)
    return results


def _judged(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [goal._asdict() for goal in goals.judge(results)] if results["scale"] == "full" else []


def _partial(path: Path) -> Path:
    return path.with_suffix(".part")


def measure(
    workload: Workload,
    earlier: Sequence[Mapping[str, Any]],
    options: Options,
    folder: Path,
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One workload: first calls, agreement, then repeats in which every contender is run once in turn.

    `earlier` are the rows of the workloads before it.
    """
    rows = {entry.name: _new_row(workload, entry, options.common.scale) for entry in _taking_part(workload, options)}
    versions: dict[str, str] = {}
    progress.begin(workload)
    if workload.task in _SEARCHED:
        _search(workload, rows, earlier, options, folder, progress)
    for number in range(options.firsts):
        with _processes(workload, rows, options, folder) as processes:
            for name, process in processes.items():
                with _failure_noted(rows[name], progress):
                    about = process.loaded(progress.patience(options.limit))
                    versions |= about.pop("versions")
                    rows[name] |= about
            for name, process in _running(processes, rows):
                with _failure_noted(rows[name], progress):
                    reply = process.ask("first", progress.patience(options.limit))
                    rows[name]["first"].append(reply.pop("seconds"))
                    rows[name] |= {key: reply[key] for key in ("values", "num_products", "peak_bytes", "memory_of")}
                    rows[name]["before_bytes"] = reply["before_bytes"]
                    if not workload.most_repeats:
                        for part, value in reply["parts"].items():
                            rows[name]["parts"].setdefault(part, []).append(value)
                    progress.say(f"{workload.id} {name}: first call {rows[name]['first'][-1]:.2f} s")
            if number + 1 < options.firsts:
                continue
            if workload.task in _COMPARED:
                _compare(workload, processes, rows, options, progress)
            _repeat(workload, processes, rows, options, progress)
    progress.end(workload)
    return [_tidy(row) for row in rows.values()], versions


def _search(
    workload: Workload,
    rows: dict[str, dict[str, Any]],
    earlier: Sequence[Mapping[str, Any]],
    options: Options,
    folder: Path,
    progress: Progress,
) -> None:
    """Choose the batch of a product, and what memory is taken from, as is fastest for each contender by itself.

    What was chosen `earlier` for products with the same matrix stands.
    """
    same = {w.id for w in WORKLOADS.values() if (w.problem, w.matrix) == (workload.problem, workload.matrix)}
    known = {row["contender"]: row for row in earlier if row["workload"] in same and row["searched"]}
    for name in rows.keys() & known.keys():
        rows[name] |= {key: known[name][key] for key in ("allocator", "batch", "searched")}
    processes = {
        (name, allocator): _process(name, workload, options, folder, 0, allocator)
        for name, row in rows.items()
        if row["status"] == "ok" and name not in known
        for allocator in _ALLOCATORS
        if not allocator or (row["framework"] == "PyTorch" and sys.platform == "linux")
    }
    tried: dict[str, dict[tuple[str, int], float]] = {name: {} for name, _ in processes}
    try:
        # All have loaded before the first of them is timed.
        ready = [key for key, process in processes.items() if _loads(process, progress.patience(options.limit))]
        for name, allocator in ready:
            with contextlib.suppress(ContenderError):  # which it may be with some sizes; all examples are then tried
                found = processes[name, allocator].ask("search", progress.patience(options.limit))["seconds"]
                tried[name] |= {(allocator, int(size)): seconds for size, seconds in found.items()}
    finally:
        for process in processes.values():
            process.stop()
    for name, choices in tried.items():
        if choices:
            row = rows[name]
            row["allocator"], row["batch"] = min(choices, key=lambda choice: choices[choice])
            row["searched"] = {
                f"{size}{f', {words}' if words else ''}": seconds for (words, size), seconds in choices.items()
            }
            progress.say(f"{workload.id} {name}: {said_of_choice(row)}")


def _loads(process: Process, patience: float) -> bool:
    try:
        process.loaded(patience)
    except ContenderError:
        return False
    return True


def _process(name: str, workload: Workload, options: Options, folder: Path, batch: int, allocator: str) -> Process:
    file, log = folder / f"{workload.problem}.npz", folder / f"{name} {allocator}.log"
    settings = _ALLOCATORS[allocator]
    return Process(name, workload.id, options.common.scale, file, log, arguments=[str(batch)], settings=settings)


def _compare(
    workload: Workload,
    processes: dict[str, Process],
    rows: dict[str, dict[str, Any]],
    options: Options,
    progress: Progress,
) -> None:
    for name, process in _running(processes, rows):
        with _failure_noted(rows[name], progress):
            rows[name]["check"] = process.ask("check", progress.patience(options.limit))
    compared = [row for row in rows.values() if row["status"] == "ok"]
    for name, problem in disagreements(compared, workload.values_tolerance).items():
        rows[name] |= {"status": "disagrees", "message": problem}


def _repeat(
    workload: Workload,
    processes: dict[str, Process],
    rows: dict[str, dict[str, Any]],
    options: Options,
    progress: Progress,
) -> None:
    repeats = min(options.common.repeats, workload.most_repeats)
    deadline = progress.deadline_of(workload)
    for repeat in range(repeats):
        turn = _running(processes, rows)
        shift = repeat % max(len(turn), 1)
        # The order moves on by one each time, so that nobody always follows the same neighbour.
        for name, process in turn[shift:] + turn[:shift]:
            if repeat and time.monotonic() > deadline:
                return
            with _failure_noted(rows[name], progress):
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
        "steps": timetable_steps(workload, scale),
        "batch": 0,  # examples of a product; 0 is all
        "allocator": "",
        "searched": {},
        "first": [],
        "seconds": [],
        "gradient": [],
        "parts": {},
    }


def _taking_part(workload: Workload, options: Options) -> list[Entry]:
    wanted = options.peers
    able = [entry for entry in ENTRIES if entry.takes(workload)]
    return [entry for entry in able if wanted is None or entry.name in wanted or entry.name.startswith(OURS)]


@contextlib.contextmanager
def _processes(
    workload: Workload, rows: dict[str, dict[str, Any]], options: Options, folder: Path
) -> Iterator[dict[str, Process]]:
    processes = {
        name: _process(name, workload, options, folder, row["batch"], row["allocator"])
        for name, row in rows.items()
        if row["status"] == "ok"
    }
    try:
        yield processes
    finally:
        for process in processes.values():
            process.stop()


@contextlib.contextmanager
def _failure_noted(row: dict[str, Any], progress: Progress) -> Iterator[None]:
    try:
        yield
    except ContenderError as failure:
        row |= {"status": "failed", "message": str(failure)}
        progress.say(f"{row['workload']} {row['contender']}: failed, {failure}")


def _running(processes: dict[str, Process], rows: dict[str, dict[str, Any]]) -> list[tuple[str, Process]]:
    return [(name, process) for name, process in processes.items() if rows[name]["status"] != "failed"]


def _tidy(row: dict[str, Any]) -> dict[str, Any]:
    """Of all eigenvalues only the ends are worth storing."""
    values = row.get("values") or []
    return row | {"values": [values[0], values[-1]] if len(values) > 1 else values}


def make_problems(options: command.Options, folder: Path) -> None:
    """Write the weights and data of every workload's problem to `folder`."""
    names = dict.fromkeys(workload.problem for workload in options.workloads)
    arguments = [sys.executable, "-m", "benchmarks.problems", str(folder), options.scale, *names]
    subprocess.run(arguments, check=True, cwd=ROOT, env=environment(options.scale))


if __name__ == "__main__":
    command.run_as_command(main)
