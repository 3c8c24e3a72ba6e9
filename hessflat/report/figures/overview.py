"""Verdicts by paper and scale beside the correlations of measures with the gap: the picture that opens the report."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from hessflat.analysis.correlation import Grid
from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import axis_name
from hessflat.plot.matrices import paleness
from hessflat.plot.style import STYLE
from hessflat.report.figures.style import LOST, append_row, new_columns

Counts = Mapping[tuple[str, str], Mapping[str, int]]

# White numbers on each are readable.
_COLOURS = {"holds": "#0A6B3D", "fails": LOST, "undecided": "#8A5A00"}
_OTHERS = "#5C656E"
_FEWEST_SHOWN = 0.045  # of the longest bar: a number has no room in less
_WIDE, _NARROW = 11.0, 3.5  # inches
_INCHES_A_ROW = 0.19
_PAD = 0.1


def overview(counts: Counts, grid: Grid | None, is_wide: bool) -> Drawing:
    """A bar of verdicts for each paper and scale, and each measure's tau with the gap by regulariser.

    Args:
        counts: by (paper, scale), how many claims have each verdict.
        grid: correlations; None leaves them out.
        is_wide: correlations in two columns beside the bars; otherwise in one below them.
    """
    measures = grid.measures if grid else []
    half = -(-len(measures) // 2)
    parts = [part for part in ((measures[:half], measures[half:]) if is_wide else (measures,)) if part]
    bars, lines = 0.6 + 0.24 * len(counts), 0.9 + _INCHES_A_ROW * max(map(len, parts), default=-5)
    data = new_columns("part", "group", "scale", "name", "value", "low", "high")
    with matplotlib.rc_context(STYLE):
        size = (_WIDE, max(bars, lines)) if is_wide else (_NARROW, bars + lines)
        figure = Figure(figsize=size)
        # Letters of PNGs are wider than those of the SVG, for which the layout is computed.
        figure.set_layout_engine("constrained", w_pad=_PAD, h_pad=_PAD)
        if is_wide:
            first, *maps = figure.subplots(1, 1 + len(parts), squeeze=False, width_ratios=(2.2, *[1] * len(parts))).flat
        else:  # apart, so that the bars have the width that the names of measures take
            heights = (bars, lines)[: 1 + len(parts)]
            places = figure.subfigures(1 + len(parts), 1, squeeze=False, height_ratios=heights)
            first, *maps = (place.subplots() for place in places.flat)
        _draw_verdicts(first, counts, data)
        caption = "Verdicts on claims, by paper and scale"
        if grid:
            for axis, part in zip(maps, parts, strict=True):
                image = _draw_correlations(axis, grid, part, data)
            if is_wide:
                bar = figure.colorbar(image, ax=maps[-1], shrink=0.5, pad=0.08, aspect=20, ticks=(-1, 0, 1))
                bar.set_label("Kendall τ with the gap", labelpad=-4)
                bar.outline.set_visible(False)  # type: ignore[operator]
            caption += (
                "; Kendall τ of each measure with the generalisation gap, for each setting that is varied and for all "
                "together. Red: the larger the measure, the larger the gap. Blue: the larger the measure, the smaller "
                "the gap. A dot marks a 95 % interval that excludes 0; cells without one are pale"
            )
    return Drawing("overview" if is_wide else "overview-narrow", f"{caption}.", figure, data)


def _draw_verdicts(axis: Axes, counts: Counts, data: dict[str, list[Any]]) -> None:
    """Bars from the top down, the commonest verdicts with their number."""
    longest = max((sum(own.values()) for own in counts.values()), default=1)
    for row, ((paper, scale), own) in enumerate(counts.items()):
        start = 0
        for verdict, count in own.items():
            append_row(data, "verdicts", paper, scale, verdict, count, math.nan, math.nan)
            axis.barh(row, count, 0.74, start, color=_COLOURS.get(verdict, _OTHERS), edgecolor="white", linewidth=0.6)
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


def _draw_correlations(axis: Axes, grid: Grid, measures: Sequence[str], data: dict[str, list[Any]]) -> AxesImage:
    """Measures in rows, groups of runs in columns."""
    groups = list(grid.columns)
    taus, found = np.full((len(measures), len(groups)), math.nan), np.zeros((len(measures), len(groups)), bool)
    for (row, measure), (column, group) in itertools.product(enumerate(measures), enumerate(groups)):
        cell = grid.columns[group][measure]
        if cell is not None:
            taus[row, column], found[row, column] = cell.tau, cell.is_found
            append_row(data, "correlations", group, "", measure, cell.tau, cell.low, cell.high)
            if cell.is_found:
                axis.plot(column, row, marker="o", markersize=2, color="white" if abs(cell.tau) > 0.65 else "black")
    image = axis.imshow(taus, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", alpha=paleness(found))
    axis.set_xticks(range(len(groups)), groups, rotation=90, fontsize=6.5)
    axis.set_yticks(range(len(measures)), [axis_name(measure) for measure in measures], fontsize=6.5)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return image
