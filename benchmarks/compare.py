"""Two versions of hessflat in turn, in one run: this working tree beside a commit.

    python -m benchmarks.compare --commit=HEAD~1 [--only=W1,W5] [--repeats=7] [--limit=1.05] [--scale=full|smoke]

Each version is one process, with its own package and its own contender, on the same weights and data. Calls alternate,
and so does which comes first. The median over pairs of calls of the ratio of this version's seconds to the commit's is
printed for each workload. The command ends with 1 where one is above --limit, or where the numbers differ.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import command
from benchmarks.contenders import OURS
from benchmarks.process import ROOT, ContenderError, Process
from benchmarks.run import make_problems
from benchmarks.workloads import WORKLOADS, Workload, chosen
from hessflat.analysis.experiment import Table
from hessflat.analysis.tables import as_text
from hessflat.utils.errors import InputError

DEFAULT = ("W1", "W2", "W5", "W6a", "W9")
_TASKS = ("lanczos", "exact", "largest", "blocks")
_PATIENCE = 900  # seconds for one call
_AGREE = 1e-4  # of what both versions compute: products and losses differ by rounding alone


class Compared(NamedTuple):
    """One workload: seconds of the first call, and of the others, of this version and of the commit."""

    workload: str
    first: tuple[float, float]
    seconds: np.ndarray  # [pairs, 2]
    difference: float  # the largest relative one between numbers of both

    @property
    def ratio(self) -> float:
        """The median over pairs of this version's seconds over the commit's."""
        return float(np.median(self.seconds[:, 0] / self.seconds[:, 1]))


def main(argv: Sequence[str]) -> None:
    others = {"commit": "", "limit": "1.05"}
    options = command.parse(argv, chosen, WORKLOADS, default=DEFAULT, on_device=DEFAULT, others=others)
    commit, limit = options.others["commit"], command.number_of("limit", options.others["limit"])
    if not commit:
        raise InputError("--commit=… is missing; it says which version this one is compared with, HEAD~1 say")
    if unfit := [one.id for one in options.workloads if one.task not in _TASKS]:
        raise InputError(f"{unfit[0]} is not one call that is timed; compare {', '.join(DEFAULT)}")
    found = []
    with tempfile.TemporaryDirectory(prefix="compared-") as place, checked_out(commit, Path(place) / "tree") as tree:
        make_problems(options, Path(place))
        for workload in options.workloads:
            found.append(compare(workload, options, Path(place), tree))
            print(f"{workload.id}: {found[-1].ratio:.3f}", file=sys.stderr, flush=True)
    print(as_text(table(found, commit)))
    losses = [one.workload for one in found if one.ratio > limit]
    different = [one.workload for one in found if not one.difference <= _AGREE]
    for names, says in ((losses, f"slower than {commit} by more than {limit - 1:.0%}"), (different, "other numbers")):
        if names:
            print(f"{', '.join(names)}: {says}")
    sys.exit(1 if losses or different else 0)


@contextlib.contextmanager
def checked_out(commit: str, tree: Path) -> Iterator[Path]:
    """The files of a commit, for as long as the context lasts.

    Raises:
        InputError: there is no such commit.
    """
    added = subprocess.run(
        ["git", "worktree", "add", "--detach", "--quiet", str(tree), commit],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if added.returncode:
        raise InputError(f"--commit={commit} cannot be checked out: {added.stderr.strip().splitlines()[-1]}")
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)


def compare(workload: Workload, options: command.Options[Workload], folder: Path, tree: Path) -> Compared:
    """Both versions in turn.

    Raises:
        InputError: one of them cannot run the workload.
    """
    file = folder / f"{workload.problem}.npz"
    processes = [
        Process(OURS, workload.id, options.scale, file, folder / f"{name}.log", root=root)
        for name, root in (("this", ROOT), ("commit", tree))
    ]
    try:
        for process in processes:
            process.loaded(_PATIENCE)
        first = tuple(process.ask("first", _PATIENCE)["seconds"] for process in processes)
        numbers = [process.ask("check", _PATIENCE) for process in processes]
        pairs = []
        for repeat in range(options.repeats):
            order = (0, 1) if repeat % 2 else (1, 0)
            seconds = {number: processes[number].ask("run", _PATIENCE)["seconds"] for number in order}
            pairs.append((seconds[0], seconds[1]))
    except ContenderError as error:
        raise InputError(f"{workload.id} cannot be compared: {error}; leave it out of --only") from error
    finally:
        for process in processes:
            process.stop()
    mine, others = (np.array(list(one.values())) for one in numbers)
    difference = float(np.max(np.abs(mine - others) / np.maximum(np.abs(others), np.finfo(np.float32).tiny)))
    return Compared(workload.id, (first[0], first[1]), np.array(pairs), difference)


def table(found: Sequence[Compared], commit: str) -> Table:
    """One row a workload."""
    header = ("workload", "seconds", f"of {commit}", "ratio", "of pairs", "ratio of first calls", "numbers differ by")
    rows = []
    for one in found:
        mine, others = np.median(one.seconds, axis=0)
        ratios = one.seconds[:, 0] / one.seconds[:, 1]
        spread = f"{ratios.min():.3f} to {ratios.max():.3f}"
        cells = (f"{mine:.3g}", f"{others:.3g}", f"{one.ratio:.3f}", spread, f"{one.first[0] / one.first[1]:.3f}")
        rows.append((one.workload, *cells, f"{one.difference:.1g}"))
    return Table("Medians over pairs of calls in turn; a ratio below 1 is a gain.", header, tuple(rows))


if __name__ == "__main__":
    command.run_as_command(main)
