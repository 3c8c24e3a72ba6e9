"""Figures of final metrics against a setting, with a point for each seed and a mark for unfinished runs."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import setting_name
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.plot.style import PALETTE, STYLE, letter, ordered_colours
from hessflat.report.figures.captions import context, listed, lost_words, panel_words, seed_range
from hessflat.report.figures.style import (
    LOST,
    Panel,
    append_row,
    grid_shape,
    grouped_runs,
    legend_above,
    metric_axis,
    new_columns,
    new_figure,
    setting_axis,
    setting_legend,
)


def panels_against(
    runs: Sequence[Run],
    x: str = "optim.l2",
    panels: Sequence[tuple] = (),
    name: str = "",
    lines: str = "",
) -> Drawing:
    """Final metrics against the setting `x`: mean ± standard deviation over seeds, and a point for each seed.

    A setting that starts at 0 has a symlog axis, linear below its smallest positive value. With a second setting
    `lines`, each panel has one metric and one line for each value of that setting.
    """
    groups = grouped_runs(runs, x)
    shown = [Panel(*panel) for panel in panels]
    rows, columns = grid_shape(len(shown))
    figure, axes = new_figure(rows, columns, 2.1)
    data = new_columns("metric", x, *([lines] if lines else []), "seed", "value")
    by_line = by_setting(runs, lines) if lines else {}
    colours = ordered_colours(len(by_line))
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, shown, strict=False):
            metrics = (panel.metric,) if isinstance(panel.metric, str) else panel.metric
            if lines:
                for colour, group in zip(colours, by_line.values(), strict=True):
                    _means_with_points(axis, by_setting(group, x), metrics[0], colour, data, (x, lines))
            else:
                for index, metric in enumerate(metrics):
                    _means_with_points(axis, groups, metric, PALETTE[index], data, (x,))
            _mark_lost(axis, groups)
            setting_axis(axis, list(groups), x)
            metric_axis(axis, metrics, panel.label, panel.scale)
            if len(metrics) > 1:
                legend_above(axis, metrics)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    if lines:
        setting_legend(figure, by_line, colours, lines)
    letter(axes[: len(shown)])
    each = f" for each {setting_name(lines)}" if lines else ""
    averaged = [group for line in by_line.values() for group in by_setting(line, x).values()] or groups.values()
    caption = (
        f"{listed([panel_words(panel) for panel in shown])} against {setting_name(x)}{each} at the end of training. "
        f"Points: single seeds; line and error bars: mean ± 1 std over {seed_range(dict(enumerate(averaged)))}."
        f"{lost_words(runs)} {context(runs)}"
    )
    return Drawing(name or f"against-{x.rpartition('.')[2]}", caption, figure, data)


def grid_against(
    columns: Sequence[tuple[str, Sequence[Run]]],
    panels: Sequence[tuple],
    lines: str,
    name: str,
    caption: str,
) -> Drawing:
    """One column of panels for each setting with its runs, one row for each metric, one line for each value of `lines`.

    Means ± standard deviation over seeds and a point for each seed, as in `panels_against`; the panels of a row share
    their vertical axis.
    """
    rows = [Panel(*panel) for panel in panels]
    figure, axes = new_figure(len(rows), len(columns), 1.25, sharey="row")
    by_line = by_setting([run for _, runs in columns for run in runs], lines)
    colours = ordered_colours(len(by_line))
    data = new_columns("metric", "setting", "at", lines, "seed", "value")
    with matplotlib.rc_context(STYLE):
        for row, panel in enumerate(rows):
            metric = panel.metric if isinstance(panel.metric, str) else panel.metric[0]
            for column, (setting, runs) in enumerate(columns):
                axis = axes[row * len(columns) + column]
                drawn = new_columns("metric", "at", lines, "seed", "value")
                for value, colour in zip(by_line, colours, strict=True):
                    chosen = [run for run in runs if run.setting(lines) == value]
                    _means_with_points(axis, by_setting(chosen, setting), metric, colour, drawn, (setting, lines))
                for key, cells in {**drawn, "setting": [setting] * len(drawn["at"])}.items():
                    data[key].extend(cells)
                groups = by_setting(runs, setting)
                _mark_lost(axis, groups)
                setting_axis(axis, list(groups), setting)
                axis.tick_params(axis="x", labelbottom=row == len(rows) - 1, labelsize=6, rotation=45)
                if row < len(rows) - 1:
                    axis.set_xlabel("")
                if column == 0:
                    metric_axis(axis, (metric,), panel.label, panel.scale)
    figure.align_xlabels()
    setting_legend(figure, by_line, colours, lines)
    return Drawing(name, caption, figure, data)


def _means_with_points(
    axis: Axes,
    groups: dict[Any, list[Run]],
    metric: str,
    colour: str,
    data: dict[str, list[Any]],
    settings: tuple[str, ...],
) -> None:
    places, means, spreads = [], [], []
    for value, group in groups.items():
        points = [(run, run.final_or_nan(metric)) for run in finished(group)]
        points = [(run, point) for run, point in points if math.isfinite(point)]
        for run, point in points:
            append_row(data, metric, *(run.setting(setting) for setting in settings), run.seed, point)
        if points:
            numbers = np.array([point for _, point in points])
            axis.plot([value] * len(points), numbers, "o", color=colour, alpha=0.45, markersize=3, markeredgewidth=0)
            places.append(value)
            means.append(numbers.mean())
            spreads.append(numbers.std(ddof=1) if numbers.size > 1 else 0.0)
    axis.errorbar(
        places,
        means,
        yerr=spreads,
        color=colour,
        marker="_",
        markersize=6,
        capsize=2,
        linewidth=1,
        label=metric,
    )


def _mark_lost(axis: Axes, groups: dict[Any, list[Run]]) -> None:
    """Draw a cross near the upper edge at settings with unfinished runs, with their number."""
    for value, group in groups.items():
        lost = [run for run in group if run.status in ("diverged", "failed")]
        if lost:
            across = axis.get_xaxis_transform()
            axis.plot([value], [0.94], "x", color=LOST, markersize=4, transform=across)
            text = f"{len(lost)} of {len(group)}"
            axis.text(value, 0.89, text, transform=across, ha="center", va="top", color=LOST, fontsize=6)
