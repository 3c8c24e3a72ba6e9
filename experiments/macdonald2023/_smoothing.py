"""What the experiments of *On progressive sharpening* with label smoothing share: growth, panels over iterations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hessflat.analysis import claims
from hessflat.analysis.experiment import Drawing, Evidence
from hessflat.analysis.histories import first_crossing, growth_factor, series, stability_limit
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.report.figures.axes import Panel, legend_below, metric_axis
from hessflat.report.figures.style import GREY, STYLE, letter, new_figure, ordered_colours

SMOOTHING = "train.label_smoothing"
SHARPNESS = "hessian.lambda_max"
JACOBIAN = "softmax_jacobian.max"
LOSS = "outputs.excess_loss"
NORM = "outputs.frobenius"
_LINES = ("-", "--", ":", "-.")


def less_growth(runs: Sequence[Run], metric: str, what: str, to_epoch: float = np.inf) -> Evidence:
    """Does a metric grow less, the more labels are smoothed?"""
    return claims.in_order(
        runs,
        lambda run: growth_factor(run, metric, to_epoch),
        f"the growth of {what}",
        SMOOTHING,
        "decreases",
        lambda x: f"× {number(x, 3)}",
    )


def panels_by_smoothing(
    rows: Mapping[str, Sequence[Run]],
    panels: Sequence[Panel],
    name: str,
    caption: str,
    x: Literal["step", "epoch"] = "step",
    to_epoch: float = np.inf,
    marks: Callable[[Axes, Sequence[Run]], None] | None = None,
) -> Drawing:
    """One row for each group of runs, one column for each metric: mean over seeds and a band of ± 1 std.

    Line style and colour tell label smoothing. A mean is drawn up to where the first of its seeds ends. On logarithmic
    axes a band ends at the smallest value. `marks` adds to the panels of sharpness.
    """
    figure, axes = new_figure(len(rows), len(panels), 2.0 if len(rows) > 1 else 2.4, sharex="row")
    alphas = sorted({run.setting(SMOOTHING) for runs in rows.values() for run in runs})
    looks = dict(zip(alphas, zip(ordered_colours(len(alphas)), _LINES, strict=False), strict=True))
    data: dict[str, list[Any]] = {key: [] for key in ("row", "metric", SMOOTHING, x, "seeds", "mean", "std")}
    with matplotlib.rc_context(STYLE):
        for row, (title, runs) in enumerate(rows.items()):
            for column, panel in enumerate(panels):
                axis = axes[row * len(panels) + column]
                for alpha, group in by_setting(finished(runs), SMOOTHING).items():
                    _band(axis, group, panel, looks[alpha], x, to_epoch, data, (title, panel.metric, alpha))
                if marks and panel.metric == SHARPNESS:
                    marks(axis, runs)
                metric_axis(axis, (str(panel.metric),), panel.label, panel.scale)
                if title and not column:
                    axis.set_title(title, loc="left", fontweight="bold")
                if row == len(rows) - 1:
                    axis.set_xlabel("iteration" if x == "step" else "epoch")
    handles = [Line2D([], [], color=colour, linestyle=line) for colour, line in looks.values()]
    legend_below(figure, handles, [f"label smoothing {number(alpha)}" for alpha in alphas])
    letter(axes)
    return Drawing(name, caption, figure, data)


def _band(
    axis: Axes,
    group: Sequence[Run],
    panel: Panel,
    look: tuple[str, str],
    x: str,
    to_epoch: float,
    data: dict[str, list[Any]],
    cells: tuple,
) -> None:
    metric = str(panel.metric)
    found = [dict(zip(*series(run, metric, to_epoch), strict=True)) for run in group]
    if not found:
        return
    steps = np.array(sorted(set.intersection(*(set(one) for one in found))))
    values = np.array([[one[step] for step in steps] for one in found])
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
    low = np.maximum(mean - std, values.min(axis=0)) if panel.scale == "log" else mean - std
    epoch_of = dict(zip(group[0].history("step"), group[0].history("epoch"), strict=True))
    places = steps if x == "step" else np.array([epoch_of[step] for step in steps])
    colour, line = look
    axis.plot(places, mean, color=colour, linestyle=line)
    axis.fill_between(places, low, mean + std, color=colour, alpha=0.15, linewidth=0)
    for place, one_mean, one_std in zip(places, mean, std, strict=True):
        row = (*cells, float(place), len(values), float(one_mean), float(one_std))
        for column, cell in zip(data.values(), row, strict=True):
            column.append(cell)


def edge_of_stability(run: Run) -> float:
    """2/η: gradient descent is stable on a quadratic whose largest curvature is below."""
    return stability_limit(run.setting("optim.lr"))


def mark_edge(axis: Axes, runs: Sequence[Run]) -> None:
    """2/η, a dashed line, and on it where each run first reaches it."""
    done = finished(runs)
    alphas = sorted({run.setting(SMOOTHING) for run in runs})
    colours = dict(zip(alphas, ordered_colours(len(alphas)), strict=True))
    for edge in sorted({edge_of_stability(run) for run in done}):
        axis.axhline(edge, color=GREY, linestyle=(0, (4, 2)), linewidth=0.9, zorder=0.5)
        axis.annotate(
            r"$2/\eta$", (1, edge), xycoords=("axes fraction", "data"), xytext=(2, 0), textcoords="offset points",
            fontsize=7, va="center", color=GREY,
        )  # fmt: skip
    for run in done:
        step = first_crossing(run, SHARPNESS, edge_of_stability(run))
        if step is not None:
            axis.plot(step, edge_of_stability(run), "v", color=colours[run.setting(SMOOTHING)], markersize=4, alpha=0.8)
