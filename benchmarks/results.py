"""Stored runs: one JSON file for each machine.

machine   processor, cores, memory_bytes, system, device
versions  of Python and every package that took part
scale     "full" or "smoke"
rows      one for each workload and contender: status ("ok", "disagrees", "failed", "not installed"), every sample
          of `first`, `seconds` and `gradient` (seconds), `check` and `values` (what was compared), `peak_bytes` of
          the process or the device, `before_bytes` of the process before the first call, `parts` (samples of what
          hessflat's own rows measure)
goals     what was judged
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hessflat.utils.errors import InputError
from hessflat.utils.files import write_atomically

RESULTS = Path(__file__).parent / "results"


def write(path: Path, results: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(results, indent=1) + "\n")


def join(stored: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new`, and of `stored` the workloads that `new` has not measured; goals are judged afterwards.

    Within a workload everything is of one run, so that its ratios mean the same as before.

    Raises:
        InputError: another machine, scale, or version of a package.
    """
    if difference := differing(stored, new):
        raise InputError(f"results to be joined are of another {difference}; give another --out")
    measured = {row["workload"] for row in new["rows"]}
    return new | {
        "rows": [row for row in stored["rows"] if row["workload"] not in measured] + new["rows"],
        "versions": dict(sorted((stored["versions"] | new["versions"]).items())),
        "skipped": [name for name in stored["skipped"] if name not in measured],
        "seconds": stored["seconds"] + new["seconds"],
    }


def differing(stored: dict[str, Any], new: dict[str, Any]) -> str:
    """What keeps two results from one page: the first of scale, machine and versions that differs; "" if none does."""
    versions = stored["versions"] | new["versions"]
    pairs = [("scale", stored["scale"], new["scale"]), ("machine", stored["machine"], new["machine"])]
    pairs += [(f"version of {name}", number, versions[name]) for name, number in stored["versions"].items()]
    return next((f"{what}: {before} and {now}" for what, before, now in pairs if before != now), "")


def read_all(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Every stored run, by file name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def median(samples: list[float]) -> float:
    """Of no samples it is nan."""
    return float(np.median(samples)) if samples else float("nan")


def rows_of(results: dict[str, Any], workload: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["workload"] == workload]


def is_ranked(row: dict[str, Any]) -> bool:
    """Right, whole and timed."""
    return row["status"] == "ok" and not row.get("reduced") and bool(row["seconds"])


def part(results: dict[str, Any], workload: str, name: str) -> float:
    """The median of a part of hessflat's own rows, nan where it was not measured."""
    return next((median(row["parts"].get(name, [])) for row in rows_of(results, workload)), float("nan"))
