"""The verdict table in the terminal: lines up at 100 columns, and as well when the output is piped."""

from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hessflat.analysis.experiment import StoredExperiment
from hessflat.report.verdicts import Record, judge, tally

WIDTH = 100
_COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow", "not run": "dim"}


def print_summary(entries: Sequence[StoredExperiment | tuple[Any, ...]], file: TextIO | None = None) -> None:
    """Verdict, claim, the paper's value and ours, per experiment; then how to make what is missing."""
    listed = [StoredExperiment(*entry) for entry in entries]
    console = Console(file=file, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH
    judged = [(entry, judge(entry)) for entry in listed]
    for entry, records in judged:
        if records:
            console.print(_table(f"{entry.experiment.id}, {entry.scale} scale ({entry.experiment.paper})", records))
            console.print()
    everything = [record for _, records in judged for record in records]
    console.print(Text(f"{len(everything)} claims: {tally(everything)}"))
    for entry in listed:
        if entry.missing:
            # Never wrapped, so that it can be copied.
            console.print(Text(entry.missing_text), soft_wrap=True)
        for run in entry.runs:
            if run.status != "done":
                console.print(Text(f"{run.status}, {entry.slug}: {run.path}"), soft_wrap=True)


def _table(title: str, records: Sequence[Record]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column("verdict", no_wrap=True, width=9)
    table.add_column("claim", ratio=3, overflow="fold")
    table.add_column("paper", ratio=3, overflow="fold")
    table.add_column("here", ratio=4, overflow="fold")
    table.add_column("seeds", justify="right", no_wrap=True, width=5)
    for record in records:
        verdict = record["verdict"]
        table.add_row(
            Text(verdict, style=_COLOURS[verdict]),
            Text(record["claim"]),
            Text(record["paper_value"]),
            Text(record["value"] or "–"),
            Text(str(record["seeds"])),
        )
    return table
