"""Figures and tables of `m_coordinate`: its networks, the paper's tables 1 and 2, and figure 32."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hessflat.analysis.experiment import Drawing, Table
from hessflat.analysis.histories import stability_limit
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
from hessflat.plot.style import GREY, PALETTE, STYLE, letter
from hessflat.report import figures
from hessflat.report.figures.style import append_row, legend_below, new_columns, new_figure
from hessflat.utils.errors import InputError


class Net(NamedTuple):
    """A column of table 1 or 2: an activation and the frequencies of the initial function."""

    activation: str
    start: str


class Published(NamedTuple):
    """Mean and standard deviation over the paper's ten trials."""

    mean: float
    std: float


METRICS = {
    "jacobian.max": "Jacobian norm",
    "hessian.lambda_max": "sharpness",
    "kernel.Dense_0.norm": "first layer weight norm",
}
PAPER = {
    Net("gaussian", "high"): (Published(326.80, 182.51), Published(13517.61, 3871.97), Published(9.09, 0.34)),
    Net("gaussian", "low"): (Published(84.07, 49.30), Published(18353.54, 5751.98), Published(0.56, 0.02)),
    Net("relu", "high"): (Published(121.59, 80.79), Published(14211.05, 4767.26), Published(9.61, 0.28)),
    Net("relu", "low"): (Published(42.96, 7.82), Published(9922.45, 3330.37), Published(9.56, 0.16)),
}
TRIALS = 10
NAMES = {"gaussian": "Gaussian", "relu": "ReLU"}
STARTS = ("high", "low")
# Of a fit, in place of the targets' variance of some six: of the networks that do not fit, outputs ignore the inputs.
FITTED = 0.01


def is_fit(run: Run) -> bool:
    """Whether a run fits the points; the others pretrain."""
    return run.setting("data.name") == "scattered"


def net(run: Run) -> Net:
    """The column of table 1 or 2 that a run belongs to."""
    activation = run.setting("model.coordinate_network.activation")
    if activation == "relu":
        return Net(activation, "high" if run.setting("train.init_from") else "low")
    return Net(activation, "low" if run.setting("model.coordinate_network.first_std") else "high")


def by_net(runs: Sequence[Run]) -> dict[Net, dict[int, Run]]:
    """{column: {trial: finished fit}}, including fits that miss the points."""
    trials: dict[Net, dict[int, Run]] = {column: {} for column in PAPER}
    for run in sorted(filter(is_fit, finished(runs)), key=lambda run: run.seed):
        trials[net(run)][run.seed] = run
    return trials


def fitted(runs: Sequence[Run]) -> dict[Net, dict[int, Run]]:
    """{column: {trial: fit}} of the fits with a loss below `FITTED`."""
    return {
        net: {seed: run for seed, run in own.items() if run.final("train_loss") < FITTED}
        for net, own in by_net(runs).items()
    }


def steepest(run: Run) -> float:
    """The largest |slope| of the fitted function between neighbours of the test grid on [0, 1]."""
    fit = run.spectrum("predictions")
    x, y = fit["test_inputs"][:, 0], fit["test_outputs"][:, 0]
    return float(np.max(np.abs(np.diff(y) / np.diff(x))))


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Tables 1 and 2 with measured and published columns."""
    return [_table(runs, activation) for activation in NAMES]


def _table(runs: Sequence[Run], activation: str) -> Table:
    every, good = by_net(runs), fitted(runs)
    nets = [Net(activation, start) for start in STARTS]
    header = ["norm", *(f"{start} freq., {whose}" for start in STARTS for whose in ("here", "paper"))]
    rows = []
    for place, (metric, name) in enumerate(METRICS.items()):
        cells = [name]
        for net in nets:
            ours = [run.final(metric) for run in good[net].values()]
            cells += [_spread(ours), mean_text(PAPER[net][place].mean, PAPER[net][place].std)]
        rows.append(tuple(cells))
    cells = ["largest slope on [0, 1]"]
    for net in nets:
        cells += [_spread([steepest(run) for run in good[net].values()]), "–"]
    rows.append(tuple(cells))
    counts = [cell for net in nets for cell in (f"{len(good[net])} of {len(every[net])}", f"{TRIALS}")]
    rows.append(("trials that fit the points", *counts))
    caption = (
        f"Table {1 + list(NAMES).index(activation)} of the paper: the {NAMES[activation]} network, mean ± std over the "
        f"trials that end with a loss below {FITTED:g}. Jacobian norm: the largest over the eight points. Sharpness: "
        "λ_max of the Hessian of the mean squared error over them. Slopes: between neighbours of a grid of test inputs."
    )
    return Table(caption, tuple(header), tuple(rows))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return mean_text(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def mean_text(mean: float, std: float) -> str:
    digits = ",.0f" if mean >= 1000 else ".2f"
    return f"{mean:{digits}}" if math.isnan(std) else f"{mean:{digits}} ± {std:{digits}}"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figure 32 for three trials, and the entries of the tables for every trial.

    Raises:
        InputError: no fit has finished.
    """
    if not any(by_net(runs).values()):
        raise InputError("no network has finished fitting the points; run them first")
    return [_fits(runs), _trials(runs)]


def _fits(runs: Sequence[Run]) -> Drawing:
    every = by_net(runs)
    trials = sorted({seed for own in every.values() for seed in own})[:3]
    figure, axes = new_figure(2, len(trials), 2.2)
    data = new_columns("activation", "trial", "start", "x", "y")
    colours = dict(zip(STARTS, PALETTE, strict=False))
    with matplotlib.rc_context(STYLE):
        for axis, (activation, trial) in zip(axes, [(a, t) for a in NAMES for t in trials], strict=True):
            for start in STARTS:
                run = every[Net(activation, start)].get(trial)
                if run is None:
                    continue
                fit = run.spectrum("predictions")
                x, y = fit["test_inputs"][:, 0], fit["test_outputs"][:, 0]
                axis.plot(x, y, color=colours[start], linewidth=0.8)
                points = fit["train_inputs"][:, 0], fit["train_labels"][:, 0]
                for name, (xs, ys) in {f"{start} frequencies": (x, y), "points": points}.items():
                    for place, value in zip(map(float, xs), map(float, ys), strict=True):
                        append_row(data, activation, trial, name, place, value)
                axis.plot(*points, "o", color="black", markersize=3, zorder=3)
            axis.set_title(f"{NAMES[activation]}, trial {trial + 1}")
            axis.set_xlabel("$x$")
            axis.set_ylabel("$f(w, x)$")
    handles = [Line2D([], [], color=colours[start]) for start in STARTS]
    handles.append(Line2D([], [], color="black", marker="o", markersize=3, linestyle="none"))
    legend_below(figure, handles, [*(f"from {start} frequencies" for start in STARTS), "points"])
    letter(axes)
    caption = (
        "Fits of eight points by networks that start from high and from low frequencies (figure 32 of the paper), in "
        f"{'each of the first three trials' if len(trials) > 1 else 'one trial'}. Above: Gaussian activations; below: "
        f"ReLU. {figures.context([run for own in every.values() for run in own.values()])}"
    )
    return Drawing("fits", caption, figure, data)


def _trials(runs: Sequence[Run]) -> Drawing:
    every, good = by_net(runs), fitted(runs)
    figure, axes = new_figure(1, 2, 2.5)
    data = new_columns("activation", "start", "trial", *METRICS)
    colours = dict(zip(STARTS, PALETTE, strict=False))
    with matplotlib.rc_context(STYLE):
        for axis, activation in zip(axes, NAMES, strict=True):
            for start in STARTS:
                net = Net(activation, start)
                for seed, run in every[net].items():
                    values = [run.final(metric) for metric in METRICS]
                    fill = colours[start] if seed in good[net] else "none"
                    jacobian, sharpness, _ = values
                    axis.plot(
                        max(jacobian, 1),
                        sharpness,
                        "o",
                        markersize=4,
                        markeredgecolor=colours[start],
                        markerfacecolor=fill,
                    )
                    append_row(data, *net, seed, *values)
                across, up, _ = PAPER[net]
                axis.errorbar(
                    across.mean, up.mean, xerr=across.std, yerr=up.std,
                    color=colours[start], marker="_", markersize=8, linewidth=0.8, alpha=0.6,
                )  # fmt: skip
            axis.set_xscale("log")
            axis.set_yscale("log")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(LogLocator(subs=(1, 2, 5)))
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                side.set_minor_formatter(NullFormatter())
            limit = descent_limit(next(run for own in every.values() for run in own.values()))
            axis.axhline(limit, color=GREY, linestyle="--", linewidth=0.8, zorder=0.5)
            axis.set_title(NAMES[activation])
            axis.set_xlabel(r"Jacobian norm $\max_i\,\|\partial f/\partial x_i\|_2$")
            axis.set_ylabel(r"sharpness $\lambda_{\max}(H)$")
    handles = [Line2D([], [], color=colours[s], marker="o", markersize=4, linestyle="none")
               for s in STARTS]  # fmt: skip
    handles += [
        Line2D([], [], color="black", linewidth=0.8, marker="_", markersize=8),
        Line2D([], [], color=GREY, linestyle="--", linewidth=0.8),
    ]
    legend_below(figure, handles, [*(f"from {s} frequencies" for s in STARTS), "paper, ± 1 std", "2(1 + ρ)/η"])
    letter(axes)
    caption = (
        "Sharpness against the Jacobian norm at the end of every trial, for (a) Gaussian and (b) ReLU activations. "
        "Crosses: means of the paper's tables 1 and 2 ± 1 std over its ten trials. Hollow: trials that do not fit the "
        f"points; their Jacobian norms below 1 are drawn at 1. Dashed: 2(1 + ρ)/η = {number(limit)}, above which "
        "gradient descent with momentum ρ is unstable. "
        f"{figures.context([run for own in every.values() for run in own.values()])}"
    )
    return Drawing("trials", caption, figure, data)


def descent_limit(run: Run) -> float:
    """2(1 + ρ)/η: the stability limit of gradient descent with heavy-ball momentum ρ."""
    return stability_limit(run.setting("optim.lr"), run.setting("optim.sgd.momentum"))
