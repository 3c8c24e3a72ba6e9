"""Figures of curves: metrics over training by group of runs, and values along a line."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hessflat.analysis.experiment import Drawing
from hessflat.analysis.histories import at_common_steps, series
from hessflat.analysis.names import axis_name, number, setting_name
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.plot.style import GREY, PALETTE, STYLE, letter, ordered_colours
from hessflat.report.figures.captions import band_words, context, diverged_words, listed, panel_words
from hessflat.report.figures.style import (
    Panel,
    append_row,
    draw_mean_and_range,
    epoch_axis,
    grid_shape,
    grouped_runs,
    legend_below,
    metric_axis,
    new_columns,
    new_figure,
    setting_legend,
)

_LINES = ("-", "--", ":", "-.")


def over_training(
    runs: Sequence[Run],
    by: str = "optim.l2",
    metrics: Sequence[str | Panel] = ("train_loss", "validation_accuracy", "hessian.lambda_max"),
    name: str = "over-training",
) -> Drawing:
    """Metrics over epochs, one colour for each value of the setting `by`: mean over seeds and a band of ± 1 std.

    The epoch axis is symlog, so that it shows epoch 0. Diverged runs count up to their last step.
    """
    groups = grouped_runs(runs, by)
    shown = [Panel(metric) if isinstance(metric, str) else Panel(*metric) for metric in metrics]
    rows, columns = grid_shape(len(shown))
    figure, axes = new_figure(rows, columns, 2.1)
    colours = ordered_colours(len(groups))
    data = new_columns("metric", by, "epoch", "seeds", "mean", "std")
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, shown, strict=False):
            metric = panel.metric if isinstance(panel.metric, str) else panel.metric[0]
            for colour, (value, group) in zip(colours, groups.items(), strict=True):
                _mean_and_std(axis, group, metric, colour, data, by, value)
            epoch_axis(axis, runs)
            metric_axis(axis, (metric,), panel.label, panel.scale)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    setting_legend(figure, groups, colours, by)
    letter(axes[: len(shown)])
    caption = (
        f"{listed([panel_words(panel) for panel in shown])} during training for each {setting_name(by)}. "
        f"{band_words(groups)}{diverged_words(runs)} {context(runs)}"
    )
    return Drawing(name, caption, figure, data)


def degeneracy_over_training(
    runs: Sequence[Run],
    by: str = "optim.l2",
    operators: Sequence[str] = ("hessian", "gauss_newton"),
    name: str = "degeneracy",
) -> Drawing:
    """The mass of the spectrum at zero over epochs with the lower bound 1 − rank/P, one panel for each operator.

    The bound is that of *Flatness is a False Friend*, §3.2, eq. 11.
    """
    groups = grouped_runs(runs, by)
    figure, axes = new_figure(1, len(operators), 2.4, sharey=True)
    colours = ordered_colours(len(groups))
    data = new_columns("metric", by, "epoch", "seeds", "mean", "std")
    bounds = sorted({float(run.history("zero_mass_bound")[-1]) for run in runs if run.metrics})
    bounds = [bound for bound in bounds if math.isfinite(bound)]
    with matplotlib.rc_context(STYLE):
        for axis, operator in zip(axes, operators, strict=True):
            metric = f"{operator}.zero_mass"
            for colour, (value, group) in zip(colours, groups.items(), strict=True):
                _mean_and_std(axis, group, metric, colour, data, by, value)
            for bound in bounds:
                if bound > 0:
                    axis.axhline(bound, color="black", linestyle="--", linewidth=0.9)
            epoch_axis(axis, runs)
            axis.set_ylabel(axis_name(metric) + ", fraction of $P$")
    setting_legend(figure, groups, colours, by, bound=any(bound > 0 for bound in bounds))
    letter(axes)
    values = ", ".join(number(bound) for bound in bounds if bound > 0)
    rule = "Dashed: lower bound 1 − rank/P"
    limit = f"{rule} = {values}. " if values else "The bound 1 − rank/P is not above 0 here, so it says nothing. "
    caption = (
        f"Mass of the spectrum at zero during training for each {setting_name(by)}: the weight of the Ritz values "
        f"nearest zero (two of the Hessian's, one of the Gauss-Newton matrix's). {limit}"
        f"{band_words(groups)}{diverged_words(runs)} {context(runs)}"
    )
    return Drawing(name, caption, figure, data)


def grid_over_training(
    rows: Mapping[str, Sequence[Run]],
    panels: Sequence[Panel],
    by: str,
    name: str,
    caption: str,
    x: Literal["step", "epoch"] = "step",
    to_epoch: float = math.inf,
    marks: Mapping[str, Callable[[Axes, Sequence[Run]], None]] | None = None,
) -> Drawing:
    """One row for each group of runs, one column for each metric: mean over seeds and a band of ± 1 std.

    Line style and colour distinguish the values of the setting `by`. A mean ends where its first seed ends. On a
    logarithmic axis a band ends at the smallest value. `marks` maps a metric to a function that adds to its panels.
    """
    figure, axes = new_figure(len(rows), len(panels), 2.0 if len(rows) > 1 else 2.4, sharex="row")
    values = sorted({run.setting(by) for runs in rows.values() for run in runs})
    styles = dict(zip(values, zip(ordered_colours(len(values)), itertools.cycle(_LINES), strict=False), strict=True))
    data = new_columns("row", "metric", by, x, "seeds", "mean", "std")
    with matplotlib.rc_context(STYLE):
        for row, (title, runs) in enumerate(rows.items()):
            for column, panel in enumerate(panels):
                axis, metric = axes[row * len(panels) + column], str(panel.metric)
                for value, group in by_setting(finished(runs), by).items():
                    steps, values_at = at_common_steps([series(run, metric, to_epoch) for run in group])
                    epochs = dict(zip(group[0].history("step"), group[0].history("epoch"), strict=True))
                    places = steps if x == "step" else np.array([epochs[step] for step in steps])
                    mean, std = _band_of_std(axis, places, values_at, styles[value], panel.scale == "log")
                    for place, one_mean, one_std in zip(places, mean, std, strict=True):
                        cells = (float(place), len(group), float(one_mean), float(one_std))
                        append_row(data, title, metric, value, *cells)
                if marks and metric in marks:
                    marks[metric](axis, runs)
                metric_axis(axis, (metric,), panel.label, panel.scale)
                if title and not column:
                    axis.set_title(title, loc="left", fontweight="bold")
                if row == len(rows) - 1:
                    axis.set_xlabel("iteration" if x == "step" else "epoch")
    handles = [Line2D([], [], color=colour, linestyle=line) for colour, line in styles.values()]
    legend_below(figure, handles, [f"{setting_name(by)} {number(value)}" for value in values])
    letter(axes)
    return Drawing(name, caption, figure, data)


def _band_of_std(
    axis: Axes, places: np.ndarray, values: np.ndarray, look: tuple[str, str], above_smallest: bool
) -> tuple[np.ndarray, np.ndarray]:
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
    low = np.maximum(mean - std, values.min(axis=0)) if above_smallest else mean - std
    colour, line = look
    axis.plot(places, mean, color=colour, linestyle=line)
    axis.fill_between(places, low, mean + std, color=colour, alpha=0.15, linewidth=0)
    return mean, std


class CurvePanel(NamedTuple):
    """Curves by label, `[seeds, n]` at the positions `[n]`; `metric` is the quantity on the vertical axis."""

    metric: str
    places: np.ndarray
    curves: Mapping[str, np.ndarray]
    label: str = ""  # of the axis, where the metric's name does not do
    scale: Literal["linear", "log"] = "linear"


def curves_with_bands(
    panels: Sequence[CurvePanel], x: str, name: str, caption: str, marks: Mapping[str, float]
) -> Drawing:
    """One panel for each `CurvePanel`: the mean over seeds and the range over seeds; `marks` are labelled vertical
    lines.

    Equal labels have equal colours in all panels. On a logarithmic axis the mean is geometric.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    colours = dict(zip(labels, PALETTE, strict=False))
    rows, columns = grid_shape(len(panels))
    figure, axes = new_figure(rows, columns, 2.4)
    data = new_columns("metric", "curve", x, "seeds", "mean", "low", "high")
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, panels, strict=False):
            for label, values in panel.curves.items():
                numbers = draw_mean_and_range(axis, panel.places, values, colours[label], panel.scale == "log")
                for row in zip(panel.places, *numbers, strict=True):
                    place, *cells = map(float, row)
                    append_row(data, panel.metric, label, place, len(values), *cells)
            for mark, place in marks.items():
                axis.axvline(place, color=GREY, linestyle="--", linewidth=0.8, zorder=0.5)
                axis.annotate(
                    mark, (place, 1), xytext=(2, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
                    fontsize=7, va="bottom", ha="center",
                )  # fmt: skip
            axis.set_xlabel(x)
            metric_axis(axis, (panel.metric,), panel.label, panel.scale)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles = [Line2D([], [], color=colours[label]) for label in labels]
    legend_below(figure, handles, labels)
    letter(axes[: len(panels)])
    return Drawing(name, caption, figure, data)


def _mean_and_std(
    axis: Axes,
    group: Sequence[Run],
    metric: str,
    colour: str,
    data: dict[str, list[Any]],
    by: str,
    value: Any,
) -> None:
    """Draw the mean over the runs that reached each epoch, and the band where at least two did."""
    points: dict[float, list[float]] = {}
    for run in group:
        for epoch, measured in zip(run.history("epoch"), run.history(metric), strict=True):
            if math.isfinite(measured):
                points.setdefault(float(epoch), []).append(float(measured))
    if not points:
        return
    epochs = np.array(sorted(points))
    means = np.array([np.mean(points[epoch]) for epoch in epochs])
    spreads = np.array([np.std(points[epoch], ddof=1) if len(points[epoch]) > 1 else 0.0 for epoch in epochs])
    axis.plot(epochs, means, color=colour, marker="o", markersize=2.2, label=number(value))
    if spreads.any():
        axis.fill_between(epochs, means - spreads, means + spreads, color=colour, alpha=0.18, linewidth=0)
    for epoch, mean, spread in zip(epochs, means, spreads, strict=True):
        append_row(data, metric, value, float(epoch), len(points[epoch]), float(mean), float(spread))
