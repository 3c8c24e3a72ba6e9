"""The figure of ordered eigenvalues by rank, as *Empirical Analysis of the Hessian* draws them (figures 1 to 6)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np

from hessflat.analysis.experiment import Drawing
from hessflat.report.figures.axes import grid_shape, legend_below
from hessflat.report.figures.style import PALETTE, STYLE, letter, new_figure, ordered_colours


class RankPanel(NamedTuple):
    """Eigenvalues `[P]` by label, and which of them are shown; of several seeds `[seeds, P]`, the mean and ± 1 std.

    "all": every one against its rank, 1 the smallest. "largest": the `shown` largest against their order among these.
    "negative": those below zero, at every seed, against their rank in per cent of P. Where only the end of a spectrum
    that is shown is known, `sizes` holds P by label.
    """

    title: str
    curves: dict[str, np.ndarray]
    kind: Literal["all", "largest", "negative"] = "all"
    shown: int = 120
    note: str = ""
    line: float | None = None  # a horizontal one, such as a cut-off
    sizes: Mapping[str, int] = MappingProxyType({})
    y_name: str = ""  # what the values are, where they are not the eigenvalues themselves


_X = {"all": "rank", "largest": "order of largest eigenvalues", "negative": "rank, % of $P$"}


def eigenvalues_by_rank(panels: Sequence[RankPanel], name: str, caption: str, symbol: str = "H") -> Drawing:
    """One panel each; the same label has the same colour in all, in the order in which labels come first."""
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    colours = dict(zip(labels, [PALETTE[0]] if len(labels) == 1 else ordered_colours(len(labels)), strict=True))
    rows, columns = grid_shape(len(panels))
    figure, axes = new_figure(rows, columns, 2.2)
    data: dict[str, list[Any]] = {column: [] for column in ("panel", "curve", "rank", "size", "eigenvalue")}
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, panels, strict=False):
            for label, eigenvalues in panel.curves.items():
                places, values, spread = _shown(np.sort(np.atleast_2d(np.asarray(eigenvalues, float))), panel)
                num_params = panel.sizes.get(label, np.shape(eigenvalues)[-1])
                x = 100 * places / num_params if panel.kind == "negative" else places
                size = 5 if len(values) <= 200 else 2.5
                axis.plot(x, values, ".", color=colours[label], markersize=size, markeredgewidth=0, label=label)
                if spread.any():
                    axis.fill_between(x, values - spread, values + spread, color=colours[label], alpha=0.2, linewidth=0)
                for place, value in zip(places, values, strict=True):
                    cells = (panel.title, label, float(place), num_params, float(value))
                    for column, cell in zip(data.values(), cells, strict=True):
                        column.append(cell)
            if panel.line is not None:
                axis.axhline(panel.line, color="black", linestyle="--", linewidth=0.7)
            if panel.note:
                axis.text(0.04, 0.95, panel.note, transform=axis.transAxes, ha="left", va="top", fontsize=7)
            axis.set_title(panel.title)
            axis.set_xlabel(_X[panel.kind])
            axis.set_ylabel(panel.y_name or f"eigenvalue of ${symbol}$")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    if len(labels) > 1:
        handles = [
            matplotlib.lines.Line2D([], [], color=colours[label], marker=".", markersize=6, linestyle="none")
            for label in labels
        ]
        legend_below(figure, handles, labels)
    letter(axes[: len(panels)])
    return Drawing(name, caption, figure, data)


def _shown(ordered: np.ndarray, panel: RankPanel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks, from 1, of ascending rows `[seeds, k]`, and the mean and standard deviation of the eigenvalues there."""
    if panel.kind == "negative":
        ordered = ordered[:, (ordered < 0).all(axis=0)]
    if panel.kind == "largest":
        ordered = ordered[:, -panel.shown :]
    spread = ordered.std(axis=0, ddof=1) if len(ordered) > 1 else np.zeros(ordered.shape[1])
    return np.arange(1, ordered.shape[1] + 1, dtype=float), ordered.mean(axis=0), spread
