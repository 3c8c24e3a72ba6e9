"""The figures over epochs: each setting's mean and band, for any metric and for the mass at zero."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import axis_name, number, setting_name
from hessflat.analysis.results import Run
from hessflat.report.figures.axes import Panel, epoch_axis, grid_shape, grouped_runs, metric_axis, setting_legend
from hessflat.report.figures.captions import band_words, context, diverged_words, listed, panel_words
from hessflat.report.figures.style import STYLE, letter, new_figure, ordered_colours


def over_training(
    runs: Sequence[Run],
    by: str = "optim.l2",
    metrics: Sequence[str | Panel] = ("train_loss", "validation_accuracy", "hessian.lambda_max"),
    name: str = "over-training",
) -> Drawing:
    """Metrics over epochs, one colour per value of the setting: mean over seeds, band ± 1 standard deviation.

    The epoch axis is symlog, so that initialisation (epoch 0) is on it. Diverged runs count up to where they stop.
    """
    groups = grouped_runs(runs, by)
    wanted = [Panel(metric) if isinstance(metric, str) else Panel(*metric) for metric in metrics]
    rows, columns = grid_shape(len(wanted))
    figure, axes = new_figure(rows, columns, 2.1)
    colours = ordered_colours(len(groups))
    data = _training_columns(by)
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, wanted, strict=False):
            metric = panel.metric if isinstance(panel.metric, str) else panel.metric[0]
            for colour, (value, group) in zip(colours, groups.items(), strict=True):
                _band(axis, group, metric, colour, data, by, value)
            epoch_axis(axis, runs)
            metric_axis(axis, (metric,), panel.label, panel.scale)
    for axis in axes[len(wanted) :]:
        axis.set_visible(False)
    setting_legend(figure, groups, colours, by)
    letter(axes[: len(wanted)])
    caption = (
        f"{listed([panel_words(panel) for panel in wanted])} during training for each {setting_name(by)}. "
        f"{band_words(groups)}{diverged_words(runs)} {context(runs)}"
    )
    return Drawing(name, caption, figure, data)


def degeneracy_over_training(
    runs: Sequence[Run],
    by: str = "optim.l2",
    operators: Sequence[str] = ("hessian", "gauss_newton"),
    name: str = "degeneracy",
) -> Drawing:
    """The spectrum's mass at zero over epochs with G's lower bound 1 − rank/P, one panel per operator."""
    groups = grouped_runs(runs, by)
    figure, axes = new_figure(1, len(operators), 2.4, sharey=True)
    colours = ordered_colours(len(groups))
    data = _training_columns(by)
    bounds = sorted({float(run.history("zero_mass_bound")[-1]) for run in runs if run.metrics})
    bounds = [bound for bound in bounds if math.isfinite(bound)]
    with matplotlib.rc_context(STYLE):
        for axis, operator in zip(axes, operators, strict=True):
            metric = f"{operator}.zero_mass"
            for colour, (value, group) in zip(colours, groups.items(), strict=True):
                _band(axis, group, metric, colour, data, by, value)
            for bound in bounds:
                if bound > 0:
                    axis.axhline(bound, color="black", linestyle="--", linewidth=0.9)
            epoch_axis(axis, runs)
            axis.set_ylabel(axis_name(metric) + ", fraction of $P$")
    setting_legend(figure, groups, colours, by, bound=any(bound > 0 for bound in bounds))
    letter(axes)
    told = ", ".join(number(bound) for bound in bounds if bound > 0)
    rule = "Dashed: lower bound 1 − rank/P"
    limit = f"{rule} = {told}. " if told else "The bound 1 − rank/P is not above 0 here and says nothing. "
    caption = (
        f"Mass of the spectrum at zero during training for each {setting_name(by)}: the weight of the Ritz values "
        f"nearest zero (two of the Hessian's, one of the Gauss-Newton matrix's). {limit}"
        f"{band_words(groups)}{diverged_words(runs)} {context(runs)}"
    )
    return Drawing(name, caption, figure, data)


def _training_columns(by: str) -> dict[str, list[Any]]:
    return {column: [] for column in ("metric", by, "epoch", "seeds", "mean", "std")}


def _band(
    axis: Axes,
    group: Sequence[Run],
    metric: str,
    colour: str,
    data: dict[str, list[Any]],
    by: str,
    value: Any,
) -> None:
    """Mean over the runs that reached each epoch, and the band where at least two did."""
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
        cells = (metric, value, float(epoch), len(points[epoch]), float(mean), float(spread))
        for column, cell in zip(data, cells, strict=True):
            data[column].append(cell)
