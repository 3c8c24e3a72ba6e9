"""Figures of spectra: Ritz values and their weights with exact eigenvalues, and eigenvalues by rank."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import (
    axis_name,
    metric_name,
    number,
    operator_symbol,
    operator_title,
    quantity,
    setting_name,
)
from hessflat.analysis.results import Run, finished
from hessflat.plot.spectra import WEIGHT_FLOOR, draw_stems, rug
from hessflat.plot.style import GREY, PALETTE, STYLE, letter, ordered_colours
from hessflat.report.figures.captions import context, mode_words
from hessflat.report.figures.style import append_row, grid_shape, grouped_runs, legend_below, new_columns, new_figure

# Where extreme eigenvalues of the panels differ by more, one axis would show some spectra as a line at zero.
MOST_ON_ONE_AXIS = 20.0


def spectra_by(
    runs: Sequence[Run],
    by: str = "optim.l2",
    operator: str = "hessian",
    exact: bool = True,
    accuracy: str = "validation_accuracy",
) -> Drawing:
    """Ritz values and their weights (log), one panel for each value of a setting.

    The figure corresponds to figures 2 to 7 of *Flatness is a False Friend*. It shows one probe of the first seed as a
    stem plot, without smoothing. An `operator` name that ends in `_eval` selects batch norm in eval mode. The panels
    share their horizontal axis unless their spectra differ too much in scale. An exact spectrum is drawn as a histogram
    (fractions of all P eigenvalues, the unit of the weights), with a tick for every eigenvalue.
    """
    groups = grouped_runs(runs, by)
    rows, columns = grid_shape(len(groups))
    figure, panels = new_figure(rows, columns, 2.2, sharey=True)
    spectra = [_spectrum_of(group, operator, exact) for group in groups.values()]
    drawn = [one for one in spectra if one is not None]
    smallest = min((one.smallest for one in drawn), default=1.0)
    floor = 10.0 ** math.floor(math.log10(max(smallest, WEIGHT_FLOOR)) - 0.3)
    sizes = [max(-low, high) for low, high in (one.ends for one in drawn)] or [0.0]
    one_axis = max(sizes) <= MOST_ON_ONE_AXIS * min(sizes)
    everywhere = (min((one.ends[0] for one in drawn), default=0.0), max((one.ends[1] for one in drawn), default=0.0))
    data = new_columns(by, "seed", "step", "kind", "value", "weight")
    for panel, (value, group), one in zip(panels, groups.items(), spectra, strict=False):
        if one is None:
            _say(panel, _fates(group) or "no spectrum measured")
            panel.set_title(f"{setting_name(by)} = {number(value)}", fontsize=STYLE["axes.titlesize"])
            continue
        with matplotlib.rc_context(STYLE):
            _draw_spectrum(panel, one, everywhere if one_axis else one.ends, floor)
            panel.set_title(_spectrum_title(one.run, by, operator, accuracy))
        step = one.run.metrics[-1]["step"]
        each = np.full(one.known.size, 1 / max(one.known.size, 1))
        for kind, values, masses in (("ritz", one.nodes, one.weights), ("exact", one.known, each)):
            _extend(data, by, value, one.run.seed, step, kind, values, masses)
    with matplotlib.rc_context(STYLE):
        panels[0].set_yscale("log")
        panels[0].set_ylim(floor, 3.0)
    symbol, mode = operator_symbol(operator.removesuffix("_eval")), mode_words(runs, operator)
    _label_edges(panels, len(groups), columns, rf"eigenvalue of ${symbol}$", "weight", one_axis)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    any_exact = any(one.known.size for one in drawn)
    if any_exact:
        _legend_of_exact(figure)
    letter(panels[: len(groups)])
    seeds = sorted({one.run.seed for one in drawn})
    caption = (
        f"Spectrum of the {operator_title(operator.removesuffix('_eval'))}{mode} at the end of training for each "
        f"{setting_name(by)}: Lanczos Ritz values against their quadrature weights, one probe, seed "
        f"{', '.join(map(str, seeds)) or '–'}. "
        + (
            "Behind: the exact eigenvalues, as a histogram (fraction of all) and as ticks along the upper edge. "
            if any_exact
            else ""
        )
        + (f"Weights below {number(floor)} are drawn there. " if smallest < WEIGHT_FLOOR else "")
        + ("" if one_axis else "Each panel has a horizontal axis of its own. ")
        + f"Titles: λ_max({symbol}) ± its residual bound. "
        + context(runs)
    )
    return Drawing(f"spectra-{operator}", caption, figure, data)


class _Spectrum(NamedTuple):
    """The spectrum of one run as a panel shows it."""

    run: Run
    nodes: np.ndarray  # [m] Ritz values of the first probe
    weights: np.ndarray  # [m]
    known: np.ndarray  # every exact eigenvalue, where they were computed

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest of the values, and of 0."""
        reach = np.concatenate([self.nodes, self.known, [0.0]])
        return float(reach.min()), float(reach.max())

    @property
    def smallest(self) -> float:
        """The smallest share of the spectrum that is drawn."""
        return min(float(self.weights.min()), *([1 / self.known.size] if self.known.size else []), 1.0)


def _spectrum_of(group: Sequence[Run], operator: str, exact: bool) -> _Spectrum | None:
    """The spectrum of the first finished run of a group that has one."""
    run = next((run for run in finished(group) if run.has_spectrum(operator)), None)
    if run is None:
        return None
    spectrum = run.spectrum(operator)
    count = int(spectrum["num_valid"][0]) if "num_valid" in spectrum else spectrum["nodes"].shape[1]
    nodes, weights = (spectrum[name][0][:count].astype(float) for name in ("nodes", "weights"))
    known = np.array([])
    if exact and run.has_spectrum(f"{operator}-exact"):
        known = run.spectrum(f"{operator}-exact")["eigenvalues"].astype(float)
    return _Spectrum(run, nodes, weights, known)


def _draw_spectrum(panel: Axes, one: _Spectrum, ends: tuple[float, float], floor: float) -> None:
    low, high = ends
    margin = 0.04 * (high - low or 1.0)
    panel.set_xlim(low - margin, high + margin)
    if one.known.size:
        _exact_spectrum(panel, one.known, np.linspace(low, high, 121), floor)
    draw_stems(panel, one.nodes, one.weights, floor)


def _legend_of_exact(figure: Figure) -> None:
    legend_below(
        figure,
        [
            Line2D([], [], color=PALETTE[0], marker="o", markersize=3, linewidth=0.7),
            Patch(color="#D9D9D9"),
            Line2D([], [], color=PALETTE[1], marker="|", markersize=6, linestyle="none"),
        ],
        ["Ritz value and its weight (one probe)", "exact eigenvalues: histogram", "each exact eigenvalue"],
    )


def spectra_over_training(run: Run, name: str, subject: str, operator: str = "hessian", most: int = 6) -> Drawing:
    """Ritz values near zero and their weights at up to `most` measured steps of a run, of the first probe.

    The caption begins with `subject`.
    """
    lines = [line for line in run.metrics if run.has_spectrum(operator, line["step"])]
    shown = [lines[index] for index in sorted({round(i) for i in np.linspace(0, len(lines) - 1, most)})]
    rows, columns = grid_shape(len(shown))
    figure, axes = new_figure(rows, columns, 1.9, sharey=True)
    data = new_columns("epoch", "seed", "value", "weight")
    plain = operator.removesuffix("_eval")
    both_modes = any(run.has_spectrum(f"{plain}_eval", line["step"]) for line in run.metrics)
    with matplotlib.rc_context(STYLE):
        for axis, line in zip(axes, shown, strict=False):
            spectrum = run.spectrum(operator, line["step"])
            count = int(spectrum["num_valid"][0])
            nodes, weights = spectrum["nodes"][0][:count], spectrum["weights"][0][:count]
            largest = float(np.abs(nodes).max())
            decade = 10.0 ** math.floor(math.log10(largest))
            axis.set_xscale("symlog", linthresh=1e-3 * largest, linscale=1.0)
            axis.set_xticks([-decade, -decade / 100, 0.0, decade / 100, decade])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
            draw_stems(axis, nodes, weights, WEIGHT_FLOOR)
            axis.set_title(f"epoch {line['epoch']:g}")
            axis.set_xlabel(f"eigenvalue of ${operator_symbol(plain)}$")
            for value, weight in zip(nodes, weights, strict=True):
                append_row(data, float(line["epoch"]), run.seed, float(value), float(weight))
        axes[0].set_yscale("log")
        axes[0].set_ylim(WEIGHT_FLOOR, 3.0)
        for axis in axes[::columns]:
            axis.set_ylabel("weight")
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
    letter(axes[: len(shown)])
    caption = (
        f"{subject}: spectrum of the {operator_title(plain)}{mode_words([run], operator) if both_modes else ''} during "
        f"training, Ritz values against their weights, one probe, seed {run.seed}. The horizontal axis is linear "
        "within 1e-3 of the largest |eigenvalue| of each panel and logarithmic beyond, so that a split of the peak at "
        f"zero can be seen. {context([run])}"
    )
    return Drawing(name, caption, figure, data)


def _extend(data: dict[str, list[Any]], by: str, value: Any, seed: int, step: int, kind: str, x: Any, y: Any) -> None:
    fixed = {by: value, "seed": seed, "step": step, "kind": kind}
    for name, constant in fixed.items():
        data[name] += [constant] * len(x)
    data["value"] += [float(one) for one in x]
    data["weight"] += [float(one) for one in y]


def _exact_spectrum(panel: Axes, known: np.ndarray, edges: np.ndarray, floor: float) -> None:
    counts, _ = np.histogram(known, edges)
    panel.stairs(np.maximum(counts / known.size, floor), edges, baseline=floor, fill=True, color="#D9D9D9", zorder=0.5)
    rug(panel, known, (edges[0], edges[-1]))


def _spectrum_title(run: Run, by: str, operator: str, accuracy: str) -> str:
    """Two lines: the setting and the accuracy, then λ_max and its error bound."""
    if math.isnan(run.final_or_nan(accuracy)):
        accuracy = "test_accuracy"
    reached = run.final_or_nan(accuracy)
    first = f"{setting_name(by)} = {number(run.setting(by))}"
    if not math.isnan(reached):
        first += f", {metric_name(accuracy).replace('validation', 'val.')} {quantity(accuracy, reached)}"
    metric = f"{operator}.lambda_max"
    bound = run.final_or_nan(f"{metric}_bound")
    error = "" if math.isnan(bound) else rf" $\pm$ {number(bound, 1)}"
    return f"{first}\n{axis_name(metric.replace('_eval.', '.'))} = {number(run.final_or_nan(metric), 5)}{error}"


def _label_edges(panels: Sequence[Axes], shown: int, columns: int, x: str, y: str, one_axis: bool) -> None:
    """Label the outer edges only; the last panel of a column has the tick labels where panels share one axis."""
    for index, panel in enumerate(panels[:shown]):
        if index + columns >= shown:
            panel.set_xlabel(x)
        elif one_axis:
            panel.tick_params(axis="x", labelbottom=False)
        if index % columns == 0:
            panel.set_ylabel(y)


def _say(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color=GREY, fontsize=8)


def _fates(group: Sequence[Run]) -> str:
    return "\n".join(f"seed {run.seed}: {run.status}" for run in group if run.status != "done")


class RankPanel(NamedTuple):
    """Eigenvalues by label, `[P]` or `[seeds, P]` (drawn as mean ± 1 std), and which of them are shown.

    "all" shows every eigenvalue against its rank, where 1 is the smallest. "largest" shows the `shown` largest in
    decreasing order. "negative" shows the negative eigenvalues, at every seed, against their rank in per cent of P.
    `sizes` gives P by label where only one end of the spectrum is known.
    """

    title: str
    curves: dict[str, np.ndarray]
    kind: Literal["all", "largest", "negative"] = "all"
    shown: int = 120
    note: str = ""
    line: float | None = None  # a horizontal one, such as a cut-off
    sizes: Mapping[str, int] = MappingProxyType({})
    y_name: str = ""  # what the values are, where they are not the eigenvalues themselves


_RANK_AXES = {"all": "rank", "largest": "order of largest eigenvalues", "negative": "rank, % of $P$"}


def eigenvalues_by_rank(panels: Sequence[RankPanel], name: str, caption: str, symbol: str = "H") -> Drawing:
    """One panel for each `RankPanel`; equal labels have equal colours in all panels."""
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    colours = dict(zip(labels, [PALETTE[0]] if len(labels) == 1 else ordered_colours(len(labels)), strict=True))
    rows, columns = grid_shape(len(panels))
    figure, axes = new_figure(rows, columns, 2.2)
    data = new_columns("panel", "curve", "rank", "size", "eigenvalue")
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
                    append_row(data, panel.title, label, float(place), num_params, float(value))
            if panel.line is not None:
                axis.axhline(panel.line, color="black", linestyle="--", linewidth=0.7)
            if panel.note:
                axis.text(0.04, 0.95, panel.note, transform=axis.transAxes, ha="left", va="top", fontsize=7)
            axis.set_title(panel.title)
            axis.set_xlabel(_RANK_AXES[panel.kind])
            axis.set_ylabel(panel.y_name or f"eigenvalue of ${symbol}$")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    if len(labels) > 1:
        handles = [Line2D([], [], color=colours[label], marker=".", markersize=6, linestyle="none") for label in labels]
        legend_below(figure, handles, labels)
    letter(axes[: len(panels)])
    return Drawing(name, caption, figure, data)


def _shown(ordered: np.ndarray, panel: RankPanel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks from 1 of ascending rows `[seeds, k]`, and the mean and standard deviation of the eigenvalues at these
    ranks.
    """
    if panel.kind == "negative":
        ordered = ordered[:, (ordered < 0).all(axis=0)]
    if panel.kind == "largest":
        ordered = ordered[:, -panel.shown :]
    spread = ordered.std(axis=0, ddof=1) if len(ordered) > 1 else np.zeros(ordered.shape[1])
    return np.arange(1, ordered.shape[1] + 1, dtype=float), ordered.mean(axis=0), spread
