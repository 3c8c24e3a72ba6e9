"""Where an entry's numbers come from: what its runs share, what varies, and how each of them ended."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from hessflat.analysis.experiment import Table
from hessflat.analysis.names import number, plain
from hessflat.analysis.results import Run

# Manifest keys worth telling, and what they are called.
_FACTS = {
    "num_params": "parameters",
    "data": "data",
    "device": "device",
    "matmul_precision": "matmul precision",
    "batch_norm_mode": "batch norm",
    "statistics_batch": "batch-norm statistics batch",
    "data_checksum": "data checksum",
    "versions": "versions",
    "git_commit": "code",
}


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(name, value) of what the manifests say; runs that disagree give every value."""
    if not runs:
        return []
    seeds = sorted({run.seed for run in runs})
    told = [("seeds", ", ".join(map(str, seeds)))]
    for key, name in _FACTS.items():
        found = dict.fromkeys(plain(run.manifest.get(key)) for run in runs)
        values = [value for value in found if value]
        if values:
            told.append((name, "; ".join(values)))
    return told


def commands(runs: Sequence[Run]) -> list[str]:
    """The commands that made the runs, each once."""
    found = []
    for run in runs:
        command = run.manifest.get("command")
        if command:
            found.append(shlex.join(command) if isinstance(command, list) else str(command))
    return list(dict.fromkeys(found))


def settings(runs: Sequence[Run]) -> tuple[str, list[tuple[str, str]]]:
    """The configuration all runs share as JSON, and (setting, its values) for each that varies."""
    flat = [_flatten(run.config) for run in runs]
    shared, varied = {}, []
    for name in dict.fromkeys(name for one in flat for name in one):
        values = list(dict.fromkeys(json.dumps(one.get(name)) for one in flat))
        if len(values) == 1:
            shared[name] = json.loads(values[0])
        else:
            ordered = sorted((json.loads(value) for value in values), key=lambda value: (str(type(value)), value))
            varied.append((name, ", ".join(number(v) if isinstance(v, float) else str(v) for v in ordered)))
    return json.dumps(shared, indent=1, ensure_ascii=False), varied


def run_table(runs: Sequence[Run]) -> Table:
    """Every run with how it ended; those that did not finish come first, with the reason."""
    order = sorted(runs, key=lambda run: (run.status == "done", run.path))
    rows = tuple((run.path, str(run.seed), run.status, _end(run)) for run in order)
    return Table("Run folders and how each run ended.", ("folder", "seed", "status", "end"), rows)


def _end(run: Run) -> str:
    last = f"epoch {number(run.final_or_nan('epoch'))}" if run.metrics else "nothing measured"
    reason = plain(run.manifest.get("reason"))
    return f"{last}: {reason}" if reason else last


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
