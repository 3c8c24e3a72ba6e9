"""Damage, stop and kill runs in every way, and print what came of it.

    python -m benchmarks.chaos [--seed=0] [--minutes=10] [--only=kill-train,bits-files] [--share=1]

Each case draws from a seed of its own, `SEED:KIND:NUMBER`, and `--only=KIND:NUMBER` runs that case alone. Cases that
do not fit into the minutes are left out and counted. `--share=0.2` takes the first fifth of each kind. The exit status
is 1 unless nothing is wrong.
"""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.cases import LEFT_OUT, WRONG, Outcome, Result, counts, end, seed_of, tell
from benchmarks.chaos import commands, stored
from benchmarks.chaos.workshop import NAMED, SAME, Case, Workshop
from benchmarks.command import number_of, run_as_command
from benchmarks.tables import lined_up
from hessflat.cli import app
from hessflat.utils.errors import InputError, require_known


class Kind(NamedTuple):
    """A kind of damage: what it is, how many cases, and what is done in one."""

    title: str
    cases: int
    run: Callable[[Case], Outcome]


KINDS = {
    **{f"kill-{kind}": Kind(f"{kind} killed at random", 5, commands.killed(kind)) for kind in commands.KINDS},
    "bits-checkpoint": Kind("one bit of a checkpoint", 150, stored.bit_of_a_checkpoint),
    "bits-files": Kind("one bit of metrics, settings, manifest, arrays", 300, stored.bit_of_a_file),
    "edits": Kind("edited by hand", 44, stored.edit_by_hand),
    "signals": Kind("SIGTERM, SIGUSR1", 8, commands.signalled),
    "taken": Kind("folders moved, removed, emptied under a run", 10, commands.folder_taken),
    "disk": Kind("a full disk", 6, commands.full_disk),
    "read-only": Kind("a read-only folder", 4, commands.read_only),
    "descriptors": Kind("few file descriptors", 4, commands.few_descriptors),
    "devices": Kind("restored on other devices", 4, stored.change_of_devices),
    "kill-devices": Kind("killed on 8 devices, on 1, ended on 4", 2, commands.killed_across_devices),
}


def main(argv: Sequence[str]) -> None:
    given, settings = app.parse_flags(argv, {"seed": "0", "minutes": "10", "only": ",".join(KINDS), "share": "1"})
    if settings:
        raise InputError(f"the kit has configurations of its own; leave out {settings[0]}")
    seed = seed_of(given["seed"])
    chosen = chosen_cases(given["only"], number_of("share", given["share"]))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        results = run_all(chosen, seed, 60 * number_of("minutes", given["minutes"]), Workshop(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(lined_up(table(results)))
    end(results, seed)


def chosen_cases(only: str, share: float) -> list[tuple[str, int]]:
    """Kinds and numbers, in turn, so that what is left out for want of time is the last of every kind."""
    found = []
    for name in only.split(","):
        kind, _, number = name.partition(":")
        require_known("kind", [kind], list(KINDS))
        cases = KINDS[kind].cases
        numbers = [int(number)] if number.isdecimal() else range(max(1, round(min(share, 1.0) * cases)))
        found += [(place / len(numbers), kind, one) for place, one in enumerate(numbers)]
    return [(kind, number) for _, kind, number in sorted(found, key=lambda one: one[0])]


def run_all(chosen: Sequence[tuple[str, int]], seed: int, seconds: float, workshop: Workshop) -> list[Result]:
    """Every case, one more at once than there are processors, with a line now and then."""
    began, results, told = time.monotonic(), [], 0.0
    with ThreadPoolExecutor(1 + (os.cpu_count() or 1)) as pool:
        started = [pool.submit(_run, *case, seed, began + seconds, workshop) for case in chosen]
        for done in as_completed(started):
            results.append(done.result())
            elapsed = time.monotonic() - began
            if elapsed - told > 10 or results[-1].outcome.result == WRONG:
                told = elapsed
                tell(results, len(chosen), elapsed, seconds)
    return sorted(results, key=lambda one: (list(KINDS).index(one.kind), one.number))


def _run(kind: str, number: int, seed: int, deadline: float, workshop: Workshop) -> Result:
    if time.monotonic() > deadline:
        return Result(kind, number, Outcome(LEFT_OUT, "for want of time"))
    place = workshop.folder / f"{kind}-{number}"
    place.mkdir()
    case = Case(number, random.Random(f"{seed}:{kind}:{number}"), place, workshop)
    try:
        outcome = KINDS[kind].run(case)
    except Exception as error:  # whatever it is, the user would see a traceback
        outcome = Outcome(WRONG, f"{type(error).__name__}: {error}")
    shutil.rmtree(place, ignore_errors=True)
    return Result(kind, number, outcome)


def table(results: Sequence[Result]) -> list[list[str]]:
    """A row for each kind, with its heading and the sum."""
    columns = (SAME, NAMED, WRONG, LEFT_OUT)
    rows = [["", "tried", *columns]]
    for kind in [kind for kind in KINDS if any(one.kind == kind for one in results)]:
        rows.append([KINDS[kind].title, *counts([one for one in results if one.kind == kind], columns)])
    return [*rows, ["all", *counts(results, columns)]]


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    run_as_command(main)
