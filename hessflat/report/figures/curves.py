"""The figure of curves with bands over seeds, against whatever was recorded along: iterations, or a line."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np

from hessflat.analysis.experiment import Drawing
from hessflat.report.figures.axes import grid_shape, legend_below, metric_axis
from hessflat.report.figures.style import GREY, PALETTE, STYLE, letter, new_figure


class CurvePanel(NamedTuple):
    """Curves by label, each `[seeds, n]` at the same places `[n]`; `metric` says what they are of."""

    metric: str
    places: np.ndarray
    curves: Mapping[str, np.ndarray]
    label: str = ""  # of the axis, where the metric's name does not do
    scale: Literal["linear", "log"] = "linear"


def curves_with_bands(
    panels: Sequence[CurvePanel], x: str, name: str, caption: str, marks: Mapping[str, float]
) -> Drawing:
    """One panel each: the mean over seeds and the range between their smallest and largest; `marks` are vertical lines.

    The same label has the same colour in all panels. On a logarithmic axis the mean is the geometric one.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    colours = dict(zip(labels, PALETTE, strict=False))
    rows, columns = grid_shape(len(panels))
    figure, axes = new_figure(rows, columns, 2.4)
    data: dict[str, list[Any]] = {column: [] for column in ("metric", "curve", x, "seeds", "mean", "low", "high")}
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, panels, strict=False):
            for label, values in panel.curves.items():
                log = panel.scale == "log"
                means = np.exp(np.log(values).mean(axis=0)) if log else values.mean(axis=0)
                low, high = values.min(axis=0), values.max(axis=0)
                axis.plot(panel.places, means, color=colours[label])
                if len(values) > 1:
                    axis.fill_between(panel.places, low, high, color=colours[label], alpha=0.18, linewidth=0)
                for row in zip(panel.places, means, low, high, strict=True):
                    place, *numbers = map(float, row)
                    for column, cell in zip(
                        data.values(), (panel.metric, label, place, len(values), *numbers), strict=True
                    ):
                        column.append(cell)
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
    handles = [matplotlib.lines.Line2D([], [], color=colours[label]) for label in labels]
    legend_below(figure, handles, labels)
    letter(axes[: len(panels)])
    return Drawing(name, caption, figure, data)
