"""The figure of final metrics against a setting, with every seed's point and what did not finish."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import setting_name
from hessflat.analysis.results import Run, finished
from hessflat.report.axes import Panel, grid_shape, grouped_runs, legend_above, metric_axis, setting_axis
from hessflat.report.captions import context, listed, lost_words, panel_words, seed_range
from hessflat.report.style import LOST, PALETTE, STYLE, letter, new_figure


def panels_against(
    runs: Sequence[Run],
    x: str = "optim.l2",
    panels: Sequence[tuple] = (),
    name: str = "",
) -> Drawing:
    """Final metrics against a setting: mean ± standard deviation over seeds, and a point per seed.

    A setting that starts at 0 gets a symlog axis that is linear below its smallest positive value.
    """
    groups = grouped_runs(runs, x)
    wanted = [Panel(*panel) for panel in panels]
    rows, columns = grid_shape(len(wanted))
    figure, axes = new_figure(rows, columns, 2.1)
    data: dict[str, list[Any]] = {column: [] for column in ("metric", x, "seed", "value")}
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, wanted, strict=False):
            metrics = (panel.metric,) if isinstance(panel.metric, str) else panel.metric
            for index, metric in enumerate(metrics):
                _means_with_points(axis, groups, metric, PALETTE[index], data, x)
            _mark_lost(axis, groups)
            setting_axis(axis, list(groups), x)
            metric_axis(axis, metrics, panel.label, panel.scale)
            if len(metrics) > 1:
                legend_above(axis, metrics)
    for axis in axes[len(wanted) :]:
        axis.set_visible(False)
    letter(axes[: len(wanted)])
    caption = (
        f"{listed([panel_words(panel) for panel in wanted])} against {setting_name(x)} at the end of training. "
        f"Points: single seeds; line and error bars: mean ± 1 std over {seed_range(groups)}."
        f"{lost_words(runs)} {context(runs)}"
    )
    return Drawing(name or f"against-{x.rpartition('.')[2]}", caption, figure, data)


def _means_with_points(
    axis: Axes, groups: dict[Any, list[Run]], metric: str, colour: str, data: dict[str, list[Any]], x: str
) -> None:
    places, means, spreads = [], [], []
    for value, group in groups.items():
        points = [(run.seed, run.final_or_nan(metric)) for run in finished(group)]
        points = [(seed, point) for seed, point in points if math.isfinite(point)]
        for seed, point in points:
            for column, cell in zip(("metric", x, "seed", "value"), (metric, value, seed, point), strict=True):
                data[column].append(cell)
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
    """A cross near the upper edge at a setting where runs did not finish, with how many of them."""
    for value, group in groups.items():
        lost = [run for run in group if run.status in ("diverged", "failed")]
        if lost:
            across = axis.get_xaxis_transform()
            axis.plot([value], [0.94], "x", color=LOST, markersize=4, transform=across)
            text = f"{len(lost)} of {len(group)}"
            axis.text(value, 0.89, text, transform=across, ha="center", va="top", color=LOST, fontsize=6)
