"""Kendall's tau of every measure with the generalisation gap, as a grid of colours."""

import math

import numpy as np

from hessflat.analysis.correlation import Grid
from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import axis_name
from hessflat.plot.matrices import correlation
from hessflat.report.figures.style import append_row, new_columns, new_figure

_INCHES_A_ROW = 0.2


def correlation_grid(grid: Grid) -> Drawing:
    """Measures in rows and groups of runs in columns, coloured by tau: red follows the gap, blue runs against it.

    Bold, with a star: the 95 % interval leaves out 0. Pale: it does not. Grey number: no interval.
    """
    measures, groups = grid.measures, list(grid.columns)
    data = new_columns("group", "measure", "tau", "low", "high", "runs", "settings")
    taus = np.full((len(measures), len(groups)), math.nan)
    found, known = np.zeros(taus.shape, bool), np.zeros(taus.shape, bool)
    for column, group in enumerate(groups):
        for row, measure in enumerate(measures):
            cell = grid.columns[group][measure]
            if cell is not None:
                taus[row, column] = cell.tau
                found[row, column], known[row, column] = cell.is_found, not math.isnan(cell.low)
                append_row(data, group, measure, cell.tau, cell.low, cell.high, cell.runs, cell.settings)
    figure, (axis,) = new_figure(1, 1, 0.9 + _INCHES_A_ROW * len(measures))
    headings, names = [_counted(grid, group) for group in groups], [axis_name(measure) for measure in measures]
    correlation(taus, names, headings, axis, "Kendall τ with the generalisation gap", found, known)
    caption = (
        f"{grid.caption} Red: the larger the measure, the larger the gap. Blue: the larger the measure, the smaller "
        "the gap. Pale: no star. Grey number: no interval."
    )
    return Drawing(grid.name, caption, figure, data)


def _counted(grid: Grid, group: str) -> str:
    """The group with how many runs of how many settings it has."""
    cells = [cell for cell in grid.columns[group].values() if cell]
    return f"{group}: {max(cell.runs for cell in cells)} runs, {max(cell.settings for cell in cells)} settings"
