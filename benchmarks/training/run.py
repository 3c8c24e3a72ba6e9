"""Training with hessflat, with a loop by hand in JAX and in PyTorch: seconds of a step, in turn, in one run.

    python -m benchmarks.training.run [--only=mlp,resnet] [--repeats=5] [--scale=full|smoke] [--budget=SECONDS]
                                      [--out=FILE] [--gpu]

--only: beginnings of softmax, mlp, vgg, resnet, pipeline, resume, wide, sweep, precision-resnet and precision-wide;
all but the last three by default. --repeats: at most, the widest network takes two. --budget: seconds after which
nothing is begun. --out: where results go, beside the other workloads that the file already holds of the same machine
and versions. A whole run goes to the folder training of benchmarks/results by itself.
--gpu: with precisions and a vectorised sweep too, three repeats, and ten minutes at most.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import command, results
from benchmarks.process import ROOT, ContenderError, Process, environment
from benchmarks.progress import Progress
from benchmarks.training import report
from benchmarks.training.workloads import DEFAULT, ON_DEVICE, PYTORCH, WORKLOADS, Entry, Workload, chosen

RESULTS = results.RESULTS / "training"

_LIMIT = 1800.0  # seconds that one call may take

Rows = dict[str, dict[str, Any]]
Options = command.Options[Workload]


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    found = run(options)
    print(report.text(found))
    if path := command.destination(options, found, RESULTS):
        command.store(found, path, options, report.judged)
        print(f"\n{path} is written; python -m benchmarks.training.document brings its page up to date")


def parse(argv: Sequence[str]) -> Options:
    return command.parse(argv, chosen, WORKLOADS, default=DEFAULT, on_device=ON_DEVICE, others={})


def run(options: Options) -> dict[str, Any]:
    """Everything that was measured; see `benchmarks.results`. `seconds` of a row are those of a step."""
    began = time.monotonic()
    progress = Progress(options.workloads, began + options.budget)
    found = command.nothing_yet(options)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        for workload in options.workloads:
            if time.monotonic() > progress.deadline:
                found["skipped"].append(workload.id)
                continue
            rows, versions = measure(workload, options, Path(folder), progress)
            found["rows"] += rows
            found["versions"] |= versions
    seconds = time.monotonic() - began
    return command.finished(found, seconds, report.judged, lambda row: row["contender"] != PYTORCH)


def measure(
    workload: Workload, options: Options, folder: Path, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One workload: first steps, agreement, then repeats in which every contender is run once in turn."""
    rows: Rows = {entry.name: _new_row(workload, entry) for entry in workload.entries}
    versions: dict[str, str] = {}
    file = folder / f"{workload.network}.npz"
    if not file.exists():
        progress.say(f"{workload.id}: weights and data")
        arguments = [sys.executable, "-m", "benchmarks.training.problem", str(file), workload.network, options.scale]
        subprocess.run(arguments, check=True, cwd=ROOT, env=environment(options.scale))
    module = "benchmarks.training.child"
    processes = {
        name: Process(name, workload.id, options.scale, file, folder / f"{name}.log", module)
        for name, row in rows.items()
        if row["status"] == "ok"
    }

    def ask(question: str, shift: int = 0) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        return _asked(processes, rows, shift, lambda p: p.ask(question, progress.patience(_LIMIT)))

    try:
        for row, about in _asked(processes, rows, 0, lambda p: p.loaded(progress.patience(_LIMIT))):
            versions |= about.pop("versions")
            row |= about
        for row, reply in ask("first"):
            row["first"].append(reply["seconds"])
            row["loop"] = reply["loop"]
            progress.say(f"{workload.id} {row['contender']}: first step {reply['seconds']:.2f} s")
        if workload.task == "train":
            for row, reply in ask("check"):
                row["check"] = reply
            compared = [row for row in rows.values() if row.get("check")]
            for name, problem in report.disagreements(compared).items():
                rows[name] |= {"status": "disagrees", "message": problem}
        for row, reply in ask("parts"):
            row["parts"] = {part: [value] for part, value in reply.items()}
        repeats = min(options.repeats, workload.most_repeats)
        for repeat in range(repeats):
            progress.advance(workload, repeat / repeats)
            # The order moves on by one each time, so that nobody always follows the same neighbour.
            for row, reply in ask("run", repeat):
                row["seconds"].append(reply["seconds"])
                step = f"{1e3 * reply['seconds']:.3g} ms a step"
                progress.say(f"{workload.id} {repeat + 1}/{repeats} {row['contender']}: {step}")
    finally:
        for process in processes.values():
            process.stop()
    progress.end(workload)
    return list(rows.values()), versions


def _asked(
    processes: dict[str, Process], rows: Rows, shift: int, question: Callable[[Process], dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, reply) of every contender that has not failed, in turn."""
    turn = [name for name in processes if rows[name]["status"] != "failed"]
    for i in range(len(turn)):
        row = rows[turn[(i + shift) % len(turn)]]
        try:
            reply = question(processes[row["contender"]])
        except ContenderError as failure:
            row |= {"status": "failed", "message": str(failure)}
            continue
        yield row, reply


def _new_row(workload: Workload, entry: Entry) -> dict[str, Any]:
    missing = entry.missing()
    return {
        "workload": workload.id,
        "contender": entry.name,
        "status": "not installed" if missing else "ok",
        "message": f"needs {', '.join(missing)}" if missing else "",
        "first": [],
        "seconds": [],
        "parts": {},
    }


if __name__ == "__main__":
    command.run_as_command(main)
