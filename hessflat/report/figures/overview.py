"""Verdicts by paper and scale beside the correlations of measures with the gap: the picture that opens the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessflat.analysis.correlation import Grid
from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import axis_name
from hessflat.plot.style import STYLE
from hessflat.report.figures.style import LOST, append_row, new_columns

Counts = Mapping[tuple[str, str], Mapping[str, int]]

# White numbers on each are readable.
_COLOURS = {"holds": "#0A6B3D", "fails": LOST, "undecided": "#8A5A00"}
_OTHERS = "#5C656E"
_FEWEST_SHOWN = 0.045  # of the longest bar: a number has no room in less
_WIDE, _NARROW = 11.0, 4.0  # inches
_INCHES_A_ROW = 0.19


def overview(counts: Counts, grid: Grid | None, is_wide: bool) -> Drawing:
    """A bar of verdicts for each paper and scale, and each measure's tau with the gap by regulariser.

    Args:
        counts: by (paper, scale), how many claims have each verdict.
        grid: correlations; None leaves them out.
        is_wide: beside one another, measures in columns; otherwise below one another, measures in rows.
    """
    measures = grid.measures if grid else []
    bars, lines = 0.55 + 0.24 * len(counts), 0.9 + _INCHES_A_ROW * len(measures)
    with matplotlib.rc_context(STYLE):
        if not grid:
            figure = Figure(figsize=(_WIDE if is_wide else _NARROW, bars), layout="constrained")
            axes = [figure.subplots()]
        elif is_wide:
            figure = Figure(figsize=(_WIDE, max(bars, 1.9 + _INCHES_A_ROW * len(grid.columns))), layout="constrained")
            axes = list(figure.subplots(1, 2, width_ratios=(2.3, 1 + _INCHES_A_ROW * len(measures))))
        else:
            figure = Figure(figsize=(_NARROW, bars + lines), layout="constrained")
            axes = list(figure.subplots(2, 1, height_ratios=(bars, lines)))
        data = new_columns("part", "group", "scale", "name", "value", "low", "high")
        _draw_verdicts(axes[0], counts, data)
        caption = "Verdicts on claims, by paper and scale"
        if grid:
            _draw_correlations(axes[1], grid, is_wide, data)
            caption += (
                "; Kendall τ of each measure with the generalisation gap, by what is varied and pooled. Red: the "
                "larger the measure, the larger the gap; blue: the other way round. A dot: the 95 % interval leaves "
                "out 0"
            )
    return Drawing("overview" if is_wide else "overview-narrow", f"{caption}.", figure, data)


def _draw_verdicts(axis: Axes, counts: Counts, data: dict[str, list[Any]]) -> None:
    """Bars from the top down, the commonest verdicts with their number."""
    longest = max((sum(own.values()) for own in counts.values()), default=1)
    for row, ((paper, scale), own) in enumerate(counts.items()):
        start = 0
        for verdict, count in own.items():
            append_row(data, "verdicts", paper, scale, verdict, count, math.nan, math.nan)
            axis.barh(row, count, 0.78, start, color=_COLOURS.get(verdict, _OTHERS), edgecolor="white", linewidth=0.6)
            if count > _FEWEST_SHOWN * longest:
                axis.text(start + count / 2, row, str(count), color="white", fontsize=7, ha="center", va="center")
            start += count
    axis.set_yticks(range(len(counts)), [f"{paper}, {scale}" for paper, scale in counts])
    axis.invert_yaxis()
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_xticks([])
    there = {verdict for own in counts.values() for verdict in own}
    words = [*(verdict for verdict in _COLOURS if verdict in there), *(["other"] if there - _COLOURS.keys() else [])]
    handles = [matplotlib.patches.Patch(color=_COLOURS.get(word, _OTHERS)) for word in words]
    axis.legend(
        handles, words, loc="upper left", bbox_to_anchor=(0, 0), ncols=2, handlelength=1, columnspacing=1, borderpad=0
    )


def _draw_correlations(axis: Axes, grid: Grid, is_wide: bool, data: dict[str, list[Any]]) -> None:
    measures, groups = grid.measures, list(grid.columns)
    taus = np.full((len(groups), len(measures)), math.nan)
    found: list[tuple[int, int]] = []
    for row, group in enumerate(groups):
        for column, measure in enumerate(measures):
            cell = grid.columns[group][measure]
            if cell is not None:
                taus[row, column] = cell.tau
                append_row(data, "correlations", group, "", measure, cell.tau, cell.low, cell.high)
                if cell.is_found:
                    found.append((column, row))
    image = axis.imshow(taus if is_wide else taus.T, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for column, row in found:
        place = (column, row) if is_wide else (row, column)
        colour = "white" if abs(taus[row, column]) > 0.65 else "black"
        axis.plot(*place, marker="o", markersize=2, color=colour)
    names = [axis_name(measure) for measure in measures]
    _label(axis, *((names, groups) if is_wide else (groups, names)))
    bar = axis.figure.colorbar(
        image, ax=axis, shrink=0.8, pad=0.01, aspect=15, location="right" if is_wide else "bottom"
    )
    bar.set_label("Kendall τ with the gap")
    bar.outline.set_visible(False)  # type: ignore[operator]


def _label(axis: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6.5)
    axis.set_yticks(range(len(rows)), rows, fontsize=6.5)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
