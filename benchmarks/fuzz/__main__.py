"""Try random calls of the library and random settings of runs, and print what came of them.

    python -m benchmarks.fuzz [--seed=0] [--minutes=60] [--only=trace,plans:7] [--share=1]

Each case draws from a seed of its own, `SEED:KIND:NUMBER`, and `--only=KIND:NUMBER` runs that case alone. A result is
compared with float64 from another source; what makes no sense must be refused in one line. Cases run in processes with
bounded memory, and one that takes too long is wrong. `--share=0.2` takes the first fifth of each kind. The exit status
is 1 unless nothing is wrong.
"""

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import LEFT_OUT, WRONG, Outcome, Result, counts, end, seed_of, tell
from benchmarks.command import number_of, run_as_command
from benchmarks.fuzz import calls, settings
from benchmarks.fuzz.outcomes import REFUSED, RIGHT
from benchmarks.tables import lined_up
from hessflat.cli import app
from hessflat.utils.errors import InputError, require_known

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds that a case may take, compilation and truth included, on a machine that does other things too
MEMORY = 8.0  # gigabytes that a process may take beyond what it begins with
_CASES_OF_A_PROCESS = 400  # what is compiled stays in memory
GROUPS = {"library calls": calls.KINDS, "settings": settings.KINDS}
KINDS = {**calls.KINDS, **settings.KINDS}


def main(argv: Sequence[str]) -> None:
    given, others = app.parse_flags(argv, {"seed": "0", "minutes": "60", "only": "", "share": "1"})
    if others:
        raise InputError(f"the kit draws settings itself; leave out {others[0]}")
    seed = seed_of(given["seed"])
    chosen = chosen_cases(given["only"], number_of("share", given["share"]))
    results = run_all(chosen, seed, 60 * number_of("minutes", given["minutes"]))
    print(lined_up(table(results)))
    end(results, seed)


def chosen_cases(only: str, share: float) -> list[tuple[str, int]]:
    """Kinds and numbers, kind by kind within each tenth, so that what is compiled for one case serves the next."""
    found = []
    for name in only.split(",") if only else KINDS:
        kind, _, number = name.rpartition(":") if name.rpartition(":")[2].isdecimal() else (name, "", "")
        require_known("kind", [kind], list(KINDS))
        cases = KINDS[kind][1]
        numbers = [int(number)] if number else range(max(1, round(min(share, 1.0) * cases)))
        found += [(int(10 * place / len(numbers)), kind, one) for place, one in enumerate(numbers)]
    return [(kind, number) for _, kind, number in sorted(found, key=lambda one: one[0])]


def run_all(chosen: Sequence[tuple[str, int]], seed: int, seconds: float) -> list[Result]:
    """Every case, in as many processes as there are processors, with a line now and then."""
    began, told, results = time.monotonic(), 0.0, []
    waiting, done = queue.SimpleQueue[tuple[str, int]](), queue.SimpleQueue[Result]()
    for case in chosen:
        waiting.put(case)
    for _ in range(min(os.cpu_count() or 1, len(chosen))):
        threading.Thread(target=_work, args=(waiting, done, seed, began + seconds), daemon=True).start()
    for _ in chosen:
        results.append(done.get())
        elapsed, last = time.monotonic() - began, results[-1]
        if last.outcome.result == WRONG:
            print(f"wrong: {seed}:{last.kind}:{last.number}: {last.outcome.why}", file=sys.stderr, flush=True)
        if elapsed - told > 20:
            told = elapsed
            tell(results, len(chosen), elapsed, seconds)
    return sorted(results, key=lambda one: (list(KINDS).index(one.kind), one.number))


def _work(
    waiting: "queue.SimpleQueue[tuple[str, int]]", done: "queue.SimpleQueue[Result]", seed: int, deadline: float
) -> None:
    """Cases, one after the other, in a process that is replaced when it dies, hangs, or has compiled a lot."""
    child, count = None, 0
    while True:
        try:
            kind, number = waiting.get_nowait()
        except queue.Empty:
            break
        outcome = Outcome(LEFT_OUT, "for want of time")
        if time.monotonic() < deadline:
            if child is None or child.poll() is not None or count >= _CASES_OF_A_PROCESS:
                _end(child)
                child, count = _started(), 0
            outcome, count = _asked(child, f"{seed}:{kind}:{number}"), count + 1
        done.put(Result(kind, number, outcome))
    _end(child)


def _started() -> "subprocess.Popen[str]":
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment.pop("HESSFLAT_DEBUG", None)
    # Several devices, of a number that divides few numbers of examples.
    environment["JAX_NUM_CPU_DEVICES"] = "3"
    command = [sys.executable, "-m", "benchmarks.fuzz.child", str(MEMORY)]
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True, start_new_session=True)  # fmt: skip
    _line_of(child, PATIENCE)
    return child


def _asked(child: "subprocess.Popen[str]", case: str) -> Outcome:
    assert child.stdin is not None
    began = time.monotonic()
    try:
        child.stdin.write(json.dumps(case) + "\n")
        child.stdin.flush()
        line = _line_of(child, PATIENCE)
    except BrokenPipeError:
        line = ""
    if line:
        return Outcome(*json.loads(line))
    ended = child.poll()
    _end(child)
    if time.monotonic() - began >= PATIENCE:
        return Outcome(WRONG, f"it takes more than {PATIENCE:.0f} s")
    return Outcome(WRONG, f"the process ended with status {child.returncode if ended is None else ended}")


def _line_of(child: "subprocess.Popen[str]", seconds: float) -> str:
    """A line of the child's, or nothing where none comes in time."""
    assert child.stdout is not None
    return child.stdout.readline() if select.select([child.stdout], [], [], seconds)[0] else ""


def _end(child: "subprocess.Popen[str] | None") -> None:
    if child is not None:
        child.kill()
        child.communicate()


def table(results: Sequence[Result]) -> list[list[str]]:
    """A row for each kind, with its heading and the sums."""
    columns = (RIGHT, REFUSED, WRONG, LEFT_OUT)
    rows = [["", "tried", *columns]]
    for group, kinds in GROUPS.items():
        tried = [kind for kind in kinds if any(one.kind == kind for one in results)]
        rows += [[kind, *counts([one for one in results if one.kind == kind], columns)] for kind in tried]
        if tried:
            rows.append([f"all {group}", *counts([one for one in results if one.kind in kinds], columns)])
    return rows


if __name__ == "__main__":
    run_as_command(main)
