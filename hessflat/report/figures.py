"""The figures that several experiments share: each takes runs and returns a `Drawing` with its numbers."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from hessflat.analysis.experiment import Drawing
from hessflat.analysis.names import (
    OPERATOR_NAMES,
    OPERATORS,
    axis_name,
    is_fraction,
    metric_name,
    number,
    plain,
    quantity,
    setting_name,
)
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.errors import InputError
from hessflat.report.style import GREY, LOST, PALETTE, STYLE, letter, new_figure, ordered_colours

# Weights can be as small as float64 allows; further down the log axis shows nothing new.
WEIGHT_FLOOR = 1e-12


class Panel(NamedTuple):
    """One panel of `panels_against`: a metric or several on one axis, the axis label, and the axis scale."""

    metric: str | tuple[str, ...]
    label: str = ""
    scale: Literal["linear", "log"] = "linear"


def spectra_by(
    runs: Sequence[Run],
    by: str = "optim.l2",
    operator: str = "hessian",
    exact: bool = True,
    accuracy: str = "validation_accuracy",
) -> Drawing:
    """Ritz values against their weights (log), one panel per value of the setting, as G draws them (figs. 2-7).

    One probe of the first seed: a stem plot shows what Lanczos found, without smoothing. Where the exact
    spectrum was measured, its histogram (as a fraction of all P eigenvalues, the same unit as the weights) lies
    behind it and every eigenvalue is a tick along the upper edge.
    """
    groups = _grouped_runs(runs, by)
    rows, columns = _shape(len(groups))
    figure, panels = new_figure(rows, columns, 2.2, sharex=True, sharey=True)
    data: dict[str, list[Any]] = {name: [] for name in (by, "seed", "step", "kind", "value", "weight")}
    drawn, everything, clipped, any_exact = [], [0.0], False, False
    floor = 1.0
    for panel, (value, group) in zip(panels, groups.items(), strict=False):
        shown = next((run for run in finished(group) if run.has_spectrum(operator)), None)
        if shown is None:
            _say(panel, _fates(group) or "no spectrum measured")
            panel.set_title(f"{setting_name(by)} = {number(value)}", fontsize=STYLE["axes.titlesize"])
            continue
        spectrum = shown.spectrum(operator)
        count = int(spectrum["num_valid"][0]) if "num_valid" in spectrum else spectrum["nodes"].shape[1]
        nodes, weights = (spectrum[name][0][:count].astype(float) for name in ("nodes", "weights"))
        known = np.array([])
        if exact and shown.has_spectrum(f"{operator}-exact"):
            known = shown.spectrum(f"{operator}-exact")["eigenvalues"].astype(float)
            any_exact = True
        drawn.append((panel, shown, nodes, weights, known))
        everything += [nodes.min(), nodes.max(), *([known.min(), known.max()] if known.size else [])]
        floor = min(floor, weights.min(), *([1 / known.size] if known.size else []))
        step = shown.metrics[-1]["step"]
        each = np.full(known.size, 1 / max(known.size, 1))
        for kind, values, masses in (("ritz", nodes, weights), ("exact", known, each)):
            _extend(data, by, value, shown.seed, step, kind, values, masses)
    clipped = floor < WEIGHT_FLOOR
    floor = 10.0 ** math.floor(math.log10(max(floor, WEIGHT_FLOOR)) - 0.3)
    low, high = min(everything), max(everything)
    margin = 0.04 * (high - low or 1.0)
    with matplotlib.rc_context(STYLE):
        for panel, shown, nodes, weights, known in drawn:
            if known.size:
                _exact_spectrum(panel, known, np.linspace(low, high, 121), floor)
            heights = np.maximum(weights, floor)
            panel.vlines(nodes, floor, heights, color=PALETTE[0], linewidth=0.7, label="stems")
            panel.plot(nodes, heights, "o", color=PALETTE[0], markersize=2.4, linestyle="none", label="Ritz values")
            panel.set_title(_spectrum_title(shown, by, operator, accuracy))
        panels[0].set_yscale("log")
        panels[0].set_ylim(floor, 3.0)
        panels[0].set_xlim(low - margin, high + margin)
    _label_edges(panels, len(groups), columns, rf"eigenvalue of ${OPERATORS[operator]}$", "weight")
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    if any_exact:
        _legend(
            figure,
            [
                Line2D([], [], color=PALETTE[0], marker="o", markersize=3, linewidth=0.7),
                Patch(color="#D9D9D9"),
                Line2D([], [], color=PALETTE[1], marker="|", markersize=6, linestyle="none"),
            ],
            [
                "Ritz value and its weight (one probe)",
                "all eigenvalues, exact: histogram",
                "each exact eigenvalue",
            ],
        )
    letter(panels[: len(groups)])
    seeds = sorted({shown.seed for _, shown, *_ in drawn})
    caption = (
        f"Spectrum of the {OPERATOR_NAMES[operator]} at the end of training for each {setting_name(by)}: Lanczos Ritz "
        f"values against their quadrature weights, one probe, seed {', '.join(map(str, seeds)) or '–'}. "
        + (
            "Behind: every eigenvalue, exact, as a histogram (fraction of all) and as ticks along the upper edge. "
            if any_exact
            else ""
        )
        + (f"Weights below {number(floor)} are drawn there. " if clipped else "")
        + f"In the titles: {metric_name(f'{operator}.lambda_max')} ± its residual bound. "
        + context(runs)
    )
    return Drawing(f"spectra-{operator}", caption, figure, data)


def panels_against(
    runs: Sequence[Run],
    x: str = "optim.l2",
    panels: Sequence[tuple] = (),
    name: str = "",
) -> Drawing:
    """Final metrics against a setting: mean ± standard deviation over seeds, and a point per seed.

    A setting that starts at 0 gets a symlog axis that is linear below its smallest positive value.
    """
    groups = _grouped_runs(runs, x)
    wanted = [Panel(*panel) for panel in panels]
    rows, columns = _shape(len(wanted))
    figure, axes = new_figure(rows, columns, 2.1)
    data: dict[str, list[Any]] = {column: [] for column in ("metric", x, "seed", "value")}
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, wanted, strict=False):
            metrics = (panel.metric,) if isinstance(panel.metric, str) else panel.metric
            for index, metric in enumerate(metrics):
                _means_with_points(axis, groups, metric, PALETTE[index], data, x)
            _mark_lost(axis, groups)
            _setting_axis(axis, list(groups), x)
            _metric_axis(axis, metrics, panel.label, panel.scale)
            if len(metrics) > 1:
                _legend_above(axis, metrics)
    for axis in axes[len(wanted) :]:
        axis.set_visible(False)
    letter(axes[: len(wanted)])
    caption = (
        f"{_listed([_panel_words(panel) for panel in wanted])} against {setting_name(x)} at the end of training. "
        f"Points: single seeds; line and error bars: mean ± 1 std over {_seed_range(groups)}."
        f"{_lost_words(runs)} {context(runs)}"
    )
    return Drawing(name or f"against-{x.rpartition('.')[2]}", caption, figure, data)


def over_training(
    runs: Sequence[Run],
    by: str = "optim.l2",
    metrics: Sequence[str | Panel] = ("train_loss", "validation_accuracy", "hessian.lambda_max"),
    name: str = "over-training",
) -> Drawing:
    """Metrics over epochs, one colour per value of the setting: mean over seeds, band ± 1 standard deviation.

    The epoch axis is symlog, so that initialisation (epoch 0) is on it. Diverged runs count up to where they stop.
    """
    groups = _grouped_runs(runs, by)
    wanted = [Panel(metric) if isinstance(metric, str) else Panel(*metric) for metric in metrics]
    rows, columns = _shape(len(wanted))
    figure, axes = new_figure(rows, columns, 2.1)
    colours = ordered_colours(len(groups))
    data = _training_columns(by)
    with matplotlib.rc_context(STYLE):
        for axis, panel in zip(axes, wanted, strict=False):
            metric = panel.metric if isinstance(panel.metric, str) else panel.metric[0]
            for colour, (value, group) in zip(colours, groups.items(), strict=True):
                _band(axis, group, metric, colour, data, by, value)
            _epoch_axis(axis, runs)
            _metric_axis(axis, (metric,), panel.label, panel.scale)
    for axis in axes[len(wanted) :]:
        axis.set_visible(False)
    _setting_legend(figure, groups, colours, by)
    letter(axes[: len(wanted)])
    caption = (
        f"{_listed([_panel_words(panel) for panel in wanted])} during training for each {setting_name(by)}. "
        f"{_band_words(groups)}{_diverged_words(runs)} {context(runs)}"
    )
    return Drawing(name, caption, figure, data)


def degeneracy_over_training(
    runs: Sequence[Run],
    by: str = "optim.l2",
    operators: Sequence[str] = ("hessian", "gauss_newton"),
    name: str = "degeneracy",
) -> Drawing:
    """The spectrum's mass at zero over epochs with G's lower bound 1 − rank/P, one panel per operator."""
    groups = _grouped_runs(runs, by)
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
            _epoch_axis(axis, runs)
            axis.set_ylabel(axis_name(metric) + ", fraction of $P$")
    _setting_legend(figure, groups, colours, by, bound=any(bound > 0 for bound in bounds))
    letter(axes)
    told = ", ".join(number(bound) for bound in bounds if bound > 0)
    rule = "Dashed: lower bound 1 − rank/P"
    limit = f"{rule} = {told}. " if told else "The bound 1 − rank/P is not above 0 here and says nothing. "
    caption = (
        f"Mass of the spectrum at zero during training for each {setting_name(by)}: the weight of the Ritz values "
        f"nearest zero (two of the Hessian's, one of the Gauss-Newton matrix's). {limit}"
        f"{_band_words(groups)}{_diverged_words(runs)} {context(runs)}"
    )
    return Drawing(name, caption, figure, data)


def context(runs: Sequence[Run]) -> str:
    """What must be known to read a curvature number: model, data, precision, batch-norm mode."""
    normed = [run for run in runs if not plain(run.manifest.get("batch_norm_mode")).startswith("none")]
    facts = [
        ("model", [run.config.get("model", {}).get("name") for run in runs]),
        ("data", [run.config.get("data", {}).get("name") for run in runs]),
        ("P =", [run.manifest.get("num_params") for run in runs]),
        ("matmul precision", [run.manifest.get("matmul_precision") for run in runs]),
        ("batch norm in mode", [run.manifest.get("batch_norm_mode") for run in normed]),
        ("with statistics of a batch of", [run.manifest.get("statistics_batch") for run in normed]),
        ("scale", [run.config.get("scale") for run in runs]),
    ]
    told = []
    for what, found in facts:
        values = sorted({plain(value) for value in found} - {""})
        if values:
            told.append(f"{what} {' or '.join(values)}")
    return f"({'; '.join(told)})" if told else ""


def _shape(count: int) -> tuple[int, int]:
    """Rows and columns for `count` panels: at most three to a row, and four as a square."""
    if not count:
        raise InputError("no panels to draw; name at least one metric")
    columns = 2 if count == 4 else min(count, 3)
    return math.ceil(count / columns), columns


def _grouped_runs(runs: Sequence[Run], by: str) -> dict[Any, list[Run]]:
    if not runs:
        raise InputError("no runs to draw; train them first")
    return by_setting(runs, by)


def _extend(data: dict[str, list[Any]], by: str, value: Any, seed: int, step: int, kind: str, x: Any, y: Any) -> None:
    fixed = {by: value, "seed": seed, "step": step, "kind": kind}
    for name, constant in fixed.items():
        data[name] += [constant] * len(x)
    data["value"] += [float(one) for one in x]
    data["weight"] += [float(one) for one in y]


def _exact_spectrum(panel: Axes, known: np.ndarray, edges: np.ndarray, floor: float) -> None:
    counts, _ = np.histogram(known, edges)
    panel.stairs(np.maximum(counts / known.size, floor), edges, baseline=floor, fill=True, color="#D9D9D9", zorder=0.5)
    # Eigenvalues closer than the drawing resolves share a tick: thousands of equal ticks only make the file large.
    cells = np.unique(np.round((known - edges[0]) / (edges[-1] - edges[0]) * 1000).astype(int))
    ticks = edges[0] + cells / 1000 * (edges[-1] - edges[0])
    panel.plot(
        ticks,
        np.full(ticks.size, 0.97),
        "|",
        color=PALETTE[1],
        markersize=4,
        markeredgewidth=0.5,
        transform=panel.get_xaxis_transform(),
        label="exact eigenvalues",
    )


def _spectrum_title(run: Run, by: str, operator: str, accuracy: str) -> str:
    """Two lines: the setting and the accuracy, then λ_max with the bound of its Lanczos residual."""
    if math.isnan(run.final_or_nan(accuracy)):
        accuracy = "test_accuracy"
    reached = run.final_or_nan(accuracy)
    first = f"{setting_name(by)} = {number(run.setting(by))}"
    if not math.isnan(reached):
        first += f", {metric_name(accuracy).replace('validation', 'val.')} {quantity(accuracy, reached)}"
    metric = f"{operator}.lambda_max"
    bound = run.final_or_nan(f"{metric}_bound")
    error = "" if math.isnan(bound) else rf" $\pm$ {number(bound, 1)}"
    return f"{first}\n{axis_name(metric)} = {number(run.final_or_nan(metric), 5)}{error}"


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


def _setting_axis(axis: Axes, values: list[Any], name: str) -> None:
    """Ticks at the values themselves; log where they are positive, symlog where 0 is one of them."""
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


def _metric_axis(axis: Axes, metrics: Sequence[str], label: str, scale: str) -> None:
    fraction = all(is_fraction(metric) for metric in metrics)
    axis.set_ylabel((label or axis_name(metrics[0])) + (" (%)" if fraction and "%" not in label else ""))
    if scale == "log":
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        # Within two decades powers of ten alone leave too few ticks to read a value by.
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 3)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    if fraction:
        # The numbers stay fractions, as in the CSV; only the tick labels are per cent.
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


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


def _epoch_axis(axis: Axes, runs: Sequence[Run]) -> None:
    """Symlog, linear up to the first measured epoch, with ticks at 0 and at 1, 10, 100, ..."""
    last = max((run.history("epoch").max() for run in runs if run.metrics), default=1.0)
    axis.set_xlabel("epoch")
    if last > 1:
        axis.set_xscale("symlog", linthresh=1, linscale=0.4)
        # Short runs need the 2 as well; in long ones it would meet its neighbours.
        steps = (1, 2, 5) if last < 10 else (1, 5)
        ticks = [step * 10**power for power in range(math.floor(math.log10(last)) + 1) for step in steps]
        axis.xaxis.set_major_locator(FixedLocator([0, *(tick for tick in ticks if tick <= last)]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_xlim(-0.1, last * 1.12)


def _label_edges(panels: Sequence[Axes], shown: int, columns: int, x: str, y: str) -> None:
    """Labels on the outer edge only, as the axes are shared; a column's last panel carries its tick labels."""
    for index, panel in enumerate(panels[:shown]):
        if index + columns >= shown:
            panel.set_xlabel(x)
            panel.tick_params(axis="x", labelbottom=True)
        if index % columns == 0:
            panel.set_ylabel(y)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str | None = None) -> None:
    """Under all panels, never on the data."""
    with matplotlib.rc_context(STYLE):
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), title=title)


def _legend_above(axis: Axes, metrics: Sequence[str]) -> None:
    handles = [Line2D([], [], color=PALETTE[index], linewidth=1.2) for index in range(len(metrics))]
    words = [metric_name(metric).removesuffix(" (nats)") for metric in metrics]
    # What the labels share is on the axis already.
    shared = words[0].rpartition(" ")[2]
    if all(word.endswith(f" {shared}") for word in words):
        words = [word.removesuffix(f" {shared}") for word in words]
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


def _setting_legend(
    figure: Figure, groups: dict[Any, list[Run]], colours: Sequence[str], by: str, bound: bool = False
) -> None:
    handles = [Line2D([], [], color=colour, marker="o", markersize=2.5) for colour in colours]
    labels = [f"{setting_name(by)} = {number(value)}" for value in groups]
    if bound:
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9))
        labels.append("bound 1 − rank/P")
    _legend(figure, handles, labels)


def _say(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color=GREY, fontsize=8)


def _fates(group: Sequence[Run]) -> str:
    return "\n".join(f"seed {run.seed}: {run.status}" for run in group if run.status != "done")


def _listed(words: Sequence[str]) -> str:
    """What the panels show, by their letters where there are several."""
    if len(words) > 1:
        return ", ".join(f"({chr(ord('a') + index)}) {word}" for index, word in enumerate(words))
    return words[0][:1].upper() + words[0][1:] if words[0][:1].isascii() else words[0]


def _panel_words(panel: Panel) -> str:
    metrics = (panel.metric,) if isinstance(panel.metric, str) else panel.metric
    return " and ".join(metric_name(metric) for metric in metrics)


def _seed_range(groups: dict[Any, list[Run]]) -> str:
    counts = sorted({len(finished(group)) for group in groups.values()} - {0})
    if not counts:
        return "no seeds"
    if counts == [1]:
        return "one seed (no spread)"
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _band_words(groups: dict[Any, list[Run]]) -> str:
    words = _seed_range(groups)
    return "One seed, no band." if words.startswith("one") else f"Band: ± 1 std over {words}."


def _diverged_words(runs: Sequence[Run]) -> str:
    lost = [run for run in runs if run.status == "diverged"]
    return f" {_runs(len(lost))} diverged and end early." if lost else ""


def _lost_words(runs: Sequence[Run]) -> str:
    lost = [run for run in runs if run.status in ("diverged", "failed")]
    return f" Crosses: settings where runs did not finish ({_runs(len(lost))} in all)." if lost else ""


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
