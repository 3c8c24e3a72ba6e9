"""A sweep with measurements for hours in one process, and whether its memory and its time a step stay flat.

    python -m benchmarks.soak [--minutes=120] [--out=FILE]

Each round trains and measures four runs and reads their checkpoints again: two perceptrons side by side, and two
residual networks. Rounds differ in seed, learning rate and L2, as the entries of a sweep do, so that whatever is kept
for a run adds up. The first quarter of the rounds warms up. Of the others, the last third is compared with the first:
the medians of memory, of processor seconds a step, of open files, threads and memory mappings may each be at most 5 %
above. The exit status is 1 unless all are.
"""

import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import psutil
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.command import number_of, run_as_command
from benchmarks.tables import lined_up
from hessflat import config
from hessflat.cli import app
from hessflat.plot.style import STYLE
from hessflat.runs import loop, schema
from hessflat.runs.jobs import compiled, make_jobs
from hessflat.runs.schema import RunConfig
from hessflat.utils import progress
from hessflat.utils.errors import InputError
from hessflat.utils.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "soak"
GROWTH = 0.05
_FEWEST_ROUNDS = 12  # so that each third of those that count has three
_QUANTITIES = {
    "memory_bytes": "memory",
    "seconds_per_step": "processor seconds a step",
    "files": "open files",
    "threads": "threads",
    "mappings": "memory mappings",
}


def main(argv: Sequence[str]) -> None:
    given, settings = app.parse_flags(argv, {"minutes": "120", "out": ""})
    if settings:
        raise InputError(f"the soak has configurations of its own; leave out {settings[0]}")
    minutes = number_of("minutes", given["minutes"])
    rounds = run(60 * minutes)
    if len(rounds) < _FEWEST_ROUNDS:
        raise InputError(f"{minutes:g} minutes were enough for {len(rounds)} rounds of {_FEWEST_ROUNDS}; give more")
    judged = judge(rounds)
    here = machine.describe("cpu")
    out = Path(given["out"] or RESULTS / f"{machine.slug(here)}.json")
    found = {"machine": here, "minutes": minutes, "rounds": rounds, "judged": judged}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(found) + "\n")
    draw(rounds, out.with_suffix(".png"))
    print(lined_up(table(judged)))
    print(f"{len(rounds)} rounds, {sum(one['runs'] for one in rounds)} runs; {out}, {out.with_suffix('.png')}")
    if not all(one["flat"] for one in judged.values()):
        sys.exit(1)


def run(seconds: float) -> list[dict[str, Any]]:
    """Rounds until the time is over, and what each left behind."""
    rounds: list[dict[str, Any]] = []
    began = time.monotonic()
    with progress.reporting(seconds) as reporter:
        while (elapsed := time.monotonic() - began) < seconds:
            rounds.append(one_round(len(rounds)))
            reporter.advance(time.monotonic() - began - elapsed, f"round {len(rounds)}")
    return rounds


def one_round(number: int) -> dict[str, Any]:
    """Train, measure and restore the runs of a round, and look at this process."""
    process, configs = psutil.Process(), configurations(number)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    began = time.process_time()
    try:
        jobs = make_jobs(configs, folder)
        lost = loop.run_all(jobs, progress.silent()) + loop.run_all(jobs, progress.silent(), thorough=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if lost:
        raise InputError(f"a run that nothing damaged is called damaged: {lost[0]}")
    seconds = time.process_time() - began
    gc.collect()
    return {
        "runs": len(jobs),
        "seconds_per_step": seconds / sum(compiled(one).trainer.num_steps for one in configs),
        "memory_bytes": process.memory_info().rss,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "mappings": len(process.memory_maps(grouped=False)),
    }


def configurations(number: int) -> list[RunConfig]:
    """The four runs of a round."""
    shared = {"measure.spectra": "every 5 epochs", "measure.sharpness": "every 2 epochs", "checkpoint.keep": "end"}
    kinds = (
        ("g_mlp:smoke", {"train.epochs": 40, "measure.lanczos_steps": 20}),
        ("g_preresnet:smoke", {"train.epochs": 10, "measure.lanczos_steps": 10, "measure.jacobian": "never"}),
    )
    settings = {"seed": number, "optim.lr": 0.02 + 1e-5 * number}
    return [
        schema.freeze(config.override(app.from_command_line(target), shared | own | settings | {"optim.l2": l2}))
        for target, own in kinds
        for l2 in (0.0, 1e-4 * (1 + number))
    ]


def judge(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each quantity the medians of the first and of the last third after the warm-up, and whether it is flat."""
    counted = rounds[len(rounds) // 4 :]
    third = len(counted) // 3
    judged = {}
    for name in _QUANTITIES:
        before, after = (float(np.median([one[name] for one in part])) for part in (counted[:third], counted[-third:]))
        judged[name] = {"before": before, "after": after, "flat": after <= (1 + GROWTH) * before}
    return judged


def draw(rounds: Sequence[dict[str, Any]], path: Path) -> None:
    """Memory and time a step over the rounds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.6), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, name, unit, label in (
            (axes[0], "memory_bytes", 1e-6, "memory / MB"),
            (axes[1], "seconds_per_step", 1e3, "processor time a step / ms"),
        ):
            values = [unit * one[name] for one in rounds]
            axis.plot(np.arange(1, len(rounds) + 1), values, linewidth=0.8)
            axis.axvspan(1, len(rounds) // 4, alpha=0.1, color="gray", label="warm-up")
            # The first round compiles, which is far above all others.
            axis.set(xlabel="round", ylabel=label, ylim=(0, 1.1 * max(values[len(rounds) // 4 :])))
        axes[0].legend(loc="lower right")
        figure.savefig(path, dpi=150)


def table(judged: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The heading, and a row for each quantity."""
    rows = [["", "before", "after", "growth", ""]]
    for name, one in judged.items():
        growth = f"{one['after'] / one['before'] - 1:+.1%}"
        verdict = "flat" if one["flat"] else "grows"
        rows.append([_QUANTITIES[name], *(_in_words(name, one[when]) for when in ("before", "after")), growth, verdict])
    return rows


def _in_words(name: str, value: float) -> str:
    if name == "memory_bytes":
        return f"{value / 1e6:.1f} MB"
    return f"{1e3 * value:.3f} ms" if name == "seconds_per_step" else f"{value:.0f}"


if __name__ == "__main__":
    run_as_command(main)
