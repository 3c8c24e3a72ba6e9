"""One entry of the report, worked out: its verdicts, figures and tables, and what could not be made."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from hessflat.analysis.correlation import correlation_table, regulariser_tables
from hessflat.analysis.experiment import Drawing, StoredExperiment, Table
from hessflat.report.figures.style import as_png, as_svg
from hessflat.report.verdicts import Record, judge
from hessflat.utils.errors import InputError

CORRELATIONS = "Which measures follow the generalisation gap?"

Made = TypeVar("Made", Drawing, Table)


class Plate(NamedTuple):
    """A figure as files: `stem` is their common name, `caption` goes under it."""

    stem: str
    caption: str
    svg: bytes
    png: bytes
    csv: bytes


class Section(NamedTuple):
    """Everything a page or a Markdown file says about one experiment at one scale."""

    entry: StoredExperiment
    records: Sequence[Record]
    plates: Sequence[Plate]
    tables: Sequence[Table]
    trouble: Sequence[str]


def make_section(entry: StoredExperiment) -> Section:
    """Decide, draw and tabulate; what the runs do not allow is told in one line instead of stopping the report."""
    trouble: list[str] = []
    drawings = _attempt(entry, entry.experiment.draw, trouble)
    tables = _attempt(entry, entry.experiment.tabulate, trouble)
    return Section(entry, judge(entry), [_plate(entry, drawing) for drawing in drawings], tables, trouble)


def correlations(sections: Sequence[Section]) -> list[Table]:
    """What opens the report: each measure against the generalisation gap, over all experiments that ask."""
    stored = [section.entry for section in sections]
    by_experiment = correlation_table(stored)
    return regulariser_tables(stored) + ([by_experiment] if by_experiment else [])


def as_csv(data: Any) -> bytes:
    """Long-form columns of equal length as CSV; floats keep every digit."""
    lengths = {len(column) for column in data.values()}
    if len(lengths) > 1:
        raise ValueError(f"columns of unequal length: { {name: len(column) for name, column in data.items()} }")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(data)
    writer.writerows(zip(*data.values(), strict=True))
    return text.getvalue().encode()


def _attempt(entry: StoredExperiment, make: Callable[[Sequence[Any]], list[Made]], trouble: list[str]) -> list[Made]:
    if not entry.runs:
        return []
    try:
        return make(entry.runs)
    except InputError as error:
        trouble.append(" ".join(str(error).split()))
        return []


def _plate(entry: StoredExperiment, drawing: Drawing) -> Plate:
    stem = re.sub(r"[^\w.=-]+", "-", f"{entry.slug}-{drawing.name}")
    return Plate(stem, drawing.caption, as_svg(drawing.figure), as_png(drawing.figure), as_csv(drawing.data))
