"""Tables of runs, and a table as terminal text and Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hessflat.analysis.experiment import Table
from hessflat.analysis.names import number, setting_name
from hessflat.analysis.results import Run, by_setting, finished


class Column(NamedTuple):
    """A header, a metric, and a Python format for its numbers: `.2f`, `.3g`, or `.1%` for a fraction."""

    label: str
    metric: str
    format: str = ".4g"


def table_by(
    runs: Sequence[Run],
    by: str = "optim.l2",
    columns: Sequence[tuple[str, str, str]] = (),
    caption: str = "",
) -> Table:
    """One row for each value of a setting: mean ± standard deviation over seeds at the last measured step.

    `columns` are triples as `Column`. Only finished runs enter the means.
    """
    return table_by_group({(value,): group for value, group in by_setting(runs, by).items()}, [by], columns, caption)


def table_by_group(
    groups: Mapping[tuple, Sequence[Run]],
    names: Sequence[str],
    columns: Sequence[tuple[str, str, str]] = (),
    caption: str = "",
) -> Table:
    """One row for each group of runs: mean ± standard deviation over seeds at the last measured step.

    `names` are the headers of the entries of the groups' keys, which begin each row; `columns` are triples as `Column`.
    """
    shown = [Column(*column) for column in columns]
    rows = []
    for values, group in groups.items():
        done = finished(group)
        cells = (_cell([run.final_or_nan(at.metric) for run in done], at) for at in shown)
        rows.append((*map(number, values), *cells, _seeds(group)))
    caption = f"{caption} " if caption else ""
    header = (*map(setting_name, names), *(column.label for column in shown), "seeds")
    return Table(f"{caption}Mean ± std over seeds, at the end of training.", header, tuple(rows))


# These are errors themselves: their spread over seeds says nothing that a reader wants.
_ERRORS = ("_se", "_bound")


def _cell(values: Sequence[float], at: Column) -> str:
    style = at.format
    known = np.array([value for value in values if math.isfinite(value)])
    if known.size == 0:
        return "–"
    spread = float(known.std(ddof=1)) if known.size > 1 and not at.metric.endswith(_ERRORS) else None
    if style.endswith("%"):
        points = style.removesuffix("%") + "f"
        mean = f"{100 * known.mean():{points}}"
        return f"{mean} %" if spread is None else f"{mean} ± {100 * spread:{points}} %"
    mean = _tidy(f"{known.mean():{style}}")
    return mean if spread is None else f"{mean} ± {_as_precise(spread, mean)}"


def _as_precise(spread: float, mean: str) -> str:
    """The spread with as many decimals as the mean; in two significant digits where that would be 0."""
    decimals = len(mean.partition(".")[2])
    text = f"{spread:.{decimals}f}"
    return text if "e" not in mean and (float(text) or not spread) else _tidy(f"{spread:.2g}")


def _tidy(text: str) -> str:
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else text


def _seeds(group: Sequence[Run]) -> str:
    """The number of finished runs in a row, and the number of others by status."""
    done = len(finished(group))
    others = sorted({run.status for run in group if run.status != "done"})
    fates = ", ".join(f"{sum(run.status == status for run in group)} {status}" for status in others)
    return f"{done} of {len(group)} ({fates})" if others else str(done)


def as_text(table: Table) -> str:
    """The table as text: each column is padded to its widest cell."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rule = "  ".join("─" * width for width in widths)
    return "\n".join([table.caption, "", padded[0], rule, *padded[1:]])


def as_markdown(table: Table) -> str:
    """The table as a Markdown pipe table after its caption."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([table.caption, "", line(table.header), line(["---"] * len(table.header)), *map(line, table.rows)])
