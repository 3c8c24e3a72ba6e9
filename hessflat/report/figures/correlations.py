"""Kendall's tau of every measure with the generalisation gap, as a grid of colours."""

import math
from typing import Any

import matplotlib
import numpy as np

from hessflat.analysis.correlation import Correlation, Grid
from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import axis_name
from hessflat.report.figures.style import GREY, STYLE, append_row, new_columns, new_figure

_INCHES_A_ROW = 0.2
_LIGHT_GREY = "#C4C4C4"


def correlation_grid(grid: Grid) -> Drawing:
    """Measures in rows and groups of runs in columns, coloured by tau: red follows the gap, blue runs against it.

    Bold, with a star: the 95 % interval leaves out 0. Grey: no interval.
    """
    measures, groups = grid.measures, list(grid.columns)
    data = new_columns("group", "measure", "tau", "low", "high", "runs", "settings")
    taus = np.full((len(measures), len(groups)), math.nan)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = new_figure(1, 1, 0.9 + _INCHES_A_ROW * len(measures))
        for column, group in enumerate(groups):
            for row, measure in enumerate(measures):
                cell = grid.columns[group][measure]
                if cell is None:
                    continue
                taus[row, column] = cell.tau
                append_row(data, group, measure, cell.tau, cell.low, cell.high, cell.runs, cell.settings)
                axis.text(column, row, f"{cell.tau:+.2f}{'*' if cell.is_found else ''}", **_lettering(cell))
        image = axis.imshow(taus, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        axis.grid(False)  # which a new figure has
        headings = [_counted(grid, group) for group in groups]
        axis.set_xticks(range(len(groups)), headings, rotation=35, ha="left", rotation_mode="anchor")
        axis.set_yticks(range(len(measures)), [axis_name(measure) for measure in measures])
        axis.tick_params(length=0, labelsize=6)
        axis.xaxis.tick_top()
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axis, shrink=0.6, pad=0.02)
        bar.set_label("Kendall τ with the generalisation gap")
        bar.outline.set_visible(False)  # type: ignore[operator]
    caption = (
        f"{grid.caption} Red: the larger the measure, the larger the gap; blue: the other way round. Grey: no interval."
    )
    return Drawing(grid.name, caption, figure, data)


def _lettering(cell: Correlation) -> dict[str, Any]:
    is_dark = abs(cell.tau) > 0.65
    if math.isnan(cell.low):
        colour = _LIGHT_GREY if is_dark else GREY
    else:
        colour = "white" if is_dark else "black"
    weight = "bold" if cell.is_found else "normal"
    return {"ha": "center", "va": "center", "fontsize": 6.5, "color": colour, "fontweight": weight}


def _counted(grid: Grid, group: str) -> str:
    """The group with how many runs of how many settings it has."""
    cells = [cell for cell in grid.columns[group].values() if cell]
    return f"{group}: {max(cell.runs for cell in cells)} runs, {max(cell.settings for cell in cells)} settings"
