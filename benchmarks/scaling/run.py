"""Weak and strong scaling of training, products and Lanczos over virtual devices and processes, as ratios in one run.

    python -m benchmarks.scaling.run [--layouts=1x1,1x2,…] [--repeats=5] [--scale=full|smoke] [--out=FILE]

A layout is processes x devices of each. Every layout has its processes, started once and idle when it is not its turn;
in every repeat each is timed once, in turn, and the ratio is to one device in the same repeat.
"""

import json
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import command, machine
from benchmarks.process import ContenderError, Process
from benchmarks.results import RESULTS
from benchmarks.scaling import document
from benchmarks.scaling.workloads import LAYOUTS, STRONG, TASKS, WEAK, Layout
from hessflat.cli import app
from hessflat.utils.errors import InputError, require_known
from hessflat.utils.files import write_atomically

FOLDER = RESULTS / "scaling"
_PATIENCE = 300.0  # seconds that one call may take


def main(argv: Sequence[str]) -> None:
    given, _ = app.parse_flags(argv, {"layouts": ",".join(LAYOUTS), "repeats": "5", "scale": "full", "out": ""})
    names = given["layouts"].split(",")
    require_known("layout", names, list(LAYOUTS))
    require_known("scale", [given["scale"]], ["full", "smoke"])
    if "1x1" not in names:
        raise InputError(f"--layouts must hold 1x1, which the others are compared with, got {given['layouts']}")
    found = measure(
        [LAYOUTS[name] for name in names], int(command.number_of("repeats", given["repeats"])), given["scale"]
    )
    print(document.text(found))
    whole = given["scale"] == "full" and set(names) == set(LAYOUTS)
    path = Path(given["out"]) if given["out"] else FOLDER / f"{machine.slug(found['machine'])}.json" if whole else None
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found, indent=1) + "\n")
        print(
            f"\n{path} is written; python -m benchmarks.scaling.document brings docs/benchmarks-scaling.md up to date"
        )


def measure(layouts: Sequence[Layout], repeats: int, scale: str) -> dict[str, Any]:
    """Every sample, and what the programs of each layout hold."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        groups: dict[str, list[Process]] = {}
        rows: list[dict[str, Any]] = []
        try:
            for layout in layouts:
                groups[layout.name] = _started(layout, scale, Path(folder))
                try:
                    about = _together(groups[layout.name], None)
                except ContenderError as failure:
                    rows.append({"layout": layout.name, "status": str(failure)})
                    continue
                _say(f"{layout.name}: compiled")
                seconds: dict[str, list[float]] = {f"{task} {kind}": [] for kind in (STRONG, WEAK) for task in TASKS}
                rows.append({"layout": layout.name, "status": "ok", "facts": about["facts"], "seconds": seconds})
            running = [row for row in rows if row["status"] == "ok"]
            for repeat in range(repeats):
                for name in [f"{task} {kind}" for kind in (STRONG, WEAK) for task in TASKS]:
                    for row in running:
                        reply = _together(groups[row["layout"]], name)
                        row["seconds"][name].append(reply["seconds"])
                _say(f"{repeat + 1} of {repeats} repeats")
        finally:
            for process in [process for group in groups.values() for process in group]:
                process.stop()
    return {"scale": scale, "machine": machine.describe("cpu"), "rows": rows}


def _started(layout: Layout, scale: str, folder: Path) -> list[Process]:
    port = _free_port() if layout.processes > 1 else 0
    return [
        Process(
            layout.name,
            f"{rank}:{port}",
            scale,
            Path("-"),
            folder / f"{layout.name}-{rank}.log",
            "benchmarks.scaling.child",
        )
        for rank in range(layout.processes)
    ]


def _together(group: Sequence[Process], name: str | None) -> dict[str, Any]:
    """The reply of the first process to a command that all are given; None is the first one."""
    if name is not None:
        for process in group:
            process.tell(name)
    first, *_ = [process.loaded(_PATIENCE) for process in group]
    return first


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.run_as_command(main)
