"""What the figures of runs have in common: panels, axes, legends, bands and columns of numbers."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from hessflat.analysis.names import axis_name, is_fraction, metric_name, number, setting_name
from hessflat.analysis.results import Run, by_setting
from hessflat.plot.style import PALETTE, STYLE, TEXT_WIDTH
from hessflat.utils.errors import InputError

# What did not finish.
LOST = "#B00020"


class Panel(NamedTuple):
    """One panel of `panels_against`: a metric or several on one axis, the label of the axis, and its scale."""

    metric: str | tuple[str, ...]
    label: str = ""
    scale: Literal["linear", "log"] = "linear"


def new_figure(rows: int, columns: int, height: float, **sharing: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the width of a text block with `height` inches for each row, and its panels row by row."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(TEXT_WIDTH, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, **sharing)
    return figure, list(panels.flat)


def grouped_runs(runs: Sequence[Run], by: str) -> dict[Any, list[Run]]:
    if not runs:
        raise InputError("no runs to draw; train them first")
    return by_setting(runs, by)


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns for `count` panels: at most three in a row, and four as a square."""
    if not count:
        raise InputError("no panels to draw; name at least one metric")
    columns = 2 if count == 4 else min(count, 3)
    return math.ceil(count / columns), columns


def setting_axis(axis: Axes, values: list[Any], name: str) -> None:
    """Set ticks at the values of a setting; the axis is log for positive values, symlog where one is 0."""
    axis.set_xlabel(setting_name(name))
    if any(isinstance(value, str) for value in values):
        return
    positive = [value for value in values if value > 0]
    if len(positive) > 1 or (positive and len(values) > len(positive)):
        if min(values) > 0:
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    axis.xaxis.set_major_locator(FixedLocator(values))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 3)))
    if len(values) > 5:
        axis.tick_params(axis="x", rotation=45)


def metric_axis(axis: Axes, metrics: Sequence[str], label: str, scale: str) -> None:
    fraction = all(is_fraction(metric) for metric in metrics)
    axis.set_ylabel((label or axis_name(metrics[0])) + (" (%)" if fraction and "%" not in label else ""))
    if scale == "log":
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        if high < 1.001 * low:  # one number: limits that rounding alone tells apart draw nothing
            low, high = axis.set_ylim(low / 2, high * 2)
        log_ticks(axis.yaxis, low, high)
    if fraction:
        # The numbers stay fractions, as in the CSV; only the tick labels are per cent.
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def log_ticks(side: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis from `low` to `high`: within two decades powers of ten alone are too few to read a
    value by.
    """
    side.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    side.set_major_formatter(FuncFormatter(lambda value, _: number(value, 3)))
    side.set_minor_formatter(NullFormatter())


def epoch_axis(axis: Axes, runs: Sequence[Run]) -> None:
    """Make the axis symlog, linear up to the first measured epoch, with ticks at 0, 1, 10, 100, ..."""
    last = max((run.history("epoch").max() for run in runs if run.metrics), default=1.0)
    axis.set_xlabel("epoch")
    if last > 1:
        axis.set_xscale("symlog", linthresh=1, linscale=0.4)
        # Short runs need the 2 and the 5 as well; in long ones their labels would meet their neighbours'.
        steps = (1, 2, 5) if last < 10 else (1, 5) if last < 500 else (1,)
        ticks = [step * 10**power for power in range(math.floor(math.log10(last)) + 1) for step in steps]
        axis.xaxis.set_major_locator(FixedLocator([0, *(tick for tick in ticks if tick <= last)]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_xlim(-0.1, last * 1.12)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str | None = None) -> None:
    """Draw the legend of a figure below all panels."""
    with matplotlib.rc_context(STYLE):
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), title=title)


def legend_above(axis: Axes, metrics: Sequence[str]) -> None:
    handles = [Line2D([], [], color=PALETTE[index], linewidth=1.2) for index in range(len(metrics))]
    words = [metric_name(metric).removesuffix(" (nats)") for metric in metrics]
    # What the labels share is on the axis already.
    shared = words[0].rpartition(" ")[2]
    if all(word.endswith(f" {shared}") for word in words):
        words = [word.removesuffix(f" {shared}").removesuffix(",") for word in words]
    axis.legend(
        handles,
        words,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(words),
        borderaxespad=0.1,
        handlelength=1.0,
        handletextpad=0.4,
        columnspacing=0.8,
    )


def setting_legend(
    figure: Figure, groups: dict[Any, list[Run]], colours: Sequence[str], by: str, bound: bool = False
) -> None:
    handles = [Line2D([], [], color=colour, marker="o", markersize=2.5) for colour in colours]
    labels = [f"{setting_name(by)} = {number(value)}" for value in groups]
    if bound:
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9))
        labels.append("bound 1 − rank/P")
    legend_below(figure, handles, labels)


def legend_of_axis(axis: Axes, **settings: Any) -> None:
    """Draw the legend of an axis with each label once."""
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), **settings)


def draw_mean_and_range(
    axis: Axes, x: np.ndarray, values: np.ndarray, colour: str, geometric: bool, alpha: float = 0.18, **line: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the mean of values `[seeds, n]` at `x` `[n]` as a line and their range as a band; return mean, min and max
    `[n]`.

    With `geometric` the mean is geometric, as suits a log axis.
    """
    mean = np.exp(np.log(values).mean(axis=0)) if geometric else values.mean(axis=0)
    low, high = values.min(axis=0), values.max(axis=0)
    axis.plot(x, mean, color=colour, **line)
    if len(values) > 1:
        axis.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0)
    return mean, low, high


def new_columns(*names: str) -> dict[str, list[Any]]:
    """Empty columns for the numbers of a figure."""
    return {name: [] for name in names}


def append_row(data: dict[str, list[Any]], *cells: Any) -> None:
    """Append one cell to each column, in the order of the columns."""
    for column, cell in zip(data.values(), cells, strict=True):
        column.append(cell)
