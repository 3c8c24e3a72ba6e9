"""Figures and tables of `g_deep_linear`: three weights, reparameterised, trained, and trained with L2."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hessflat.analysis.deep_linear import (
    LOW_LOSS,
    QUANTITIES,
    largest_share,
    reparameterised_copies,
    rest_of_trace,
    sharpness_times_time,
)
from hessflat.analysis.experiment import Drawing, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.spectra import exact_eigenvalues
from hessflat.plot.style import GREY, PALETTE, STYLE, letter, ordered_colours
from hessflat.report import figures
from hessflat.report.figures.style import append_row, legend_below, legend_of_axis, new_columns, new_figure

# On axes, the quantities that are drawn of the reparameterised weights.
AXES = {
    "loss": "loss",
    "gradient": r"$\|\nabla L\|$",
    "lambda_max": r"$\lambda_{\max}(H)$",
    "trace": r"$\mathrm{Tr}\,H$",
}


def without_l2(runs: Sequence[Run]) -> list[Run]:
    """The runs without weight decay."""
    return [run for run in runs if run.setting("optim.l2") == 0]


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """The reparameterised copies, the curvature during training, and sharpness against L2."""
    panels = (
        figures.Panel(("hessian.exact.lambda_max", "hessian.exact.trace"), "largest eigenvalue, trace of $H$", "log"),
        figures.Panel("weight_norm"),
    )
    return [
        draw_reparameterised(runs),
        draw_training(runs),
        figures.panels_against(runs, panels=panels, name="sharpness-and-l2"),
    ]


def draw_reparameterised(runs: Sequence[Run]) -> Drawing:
    """Loss, gradient norm, λ_max and trace against α for every pair of weights, before and after training."""
    run = without_l2(finished(runs))[0]
    figure, axes = new_figure(2, 4, 1.9, sharex=True)
    data = new_columns("weights", "multiplied", "divided", "alpha", "quantity", "value")
    handles: dict[str, Line2D] = {}
    with matplotlib.rc_context(STYLE):
        for row, (when, step) in enumerate((("initial", run.first_step), ("trained", None))):
            copies = reparameterised_copies(run, step)
            pairs = sorted(set(zip(copies["multiplied"].tolist(), copies["divided"].tolist(), strict=True)))
            for axis, (quantity, label) in zip(axes[4 * row : 4 * row + 4], AXES.items(), strict=True):
                values = QUANTITIES[quantity].values(copies)
                for index, (i, j) in enumerate(pairs):
                    at = (copies["multiplied"] == i) & (copies["divided"] == j)
                    # Curves of several pairs may be one: each has its dashes where the others have gaps.
                    dashes = (2 * index, (2, 10))
                    axis.plot(copies["scale"][at], values[at], color=GREY, linewidth=0.6, zorder=1)
                    (line,) = axis.plot(
                        copies["scale"][at], values[at], color=PALETTE[index], linestyle=dashes, linewidth=1.4
                    )
                    handles.setdefault(f"$w_{i + 1} α,\\; w_{j + 1} / α$", line)
                    for alpha, value in zip(copies["scale"][at], values[at], strict=True):
                        append_row(data, when, i + 1, j + 1, float(alpha), QUANTITIES[quantity].name, float(value))
                axis.set_xscale("log")
                axis.set_yscale("log")
                if quantity == "loss":
                    middle = float(np.median(values))
                    axis.set_ylim(middle / 10, middle * 10)
                    axis.set_ylabel(f"{when} weights")
                axis.set_title(label, fontsize=8)
                if row:
                    axis.set_xlabel("α")
    legend_below(figure, [Line2D([], [], color=line.get_color()) for line in handles.values()], list(handles))
    letter(axes)
    caption = (
        "Loss, gradient norm, largest eigenvalue and trace of the Hessian when one weight is multiplied by α and "
        "another divided by it, which leaves the function as it is. (a)–(d) At the initial weights. (e)–(h) After "
        "training without L2; the weights are then so nearly equal in size that the six curves coincide. A curve with "
        f"dashes of several colours is that of several pairs. In float64; seed {run.seed}. {figures.context(runs)}"
    )
    return Drawing("reparameterised", caption, figure, data)


def draw_training(runs: Sequence[Run]) -> Drawing:
    """The ratio of λ_max to the trace, the eigenvalues and the trace against the loss; λ_max against the step."""
    done = finished(runs)
    groups = by_setting(done, "optim.l2")
    colours = ordered_colours(len(groups))
    figure, axes = new_figure(2, 2, 2.2)
    data = new_columns("l2", "seed", "step", "loss", "lambda_1", "lambda_2", "lambda_3")
    with matplotlib.rc_context(STYLE):
        share, ranks, falls, times = axes
        for colour, (l2, group) in zip(colours, groups.items(), strict=True):
            for run in group:
                steps, loss = run.history("step"), run.history("train_loss")
                spectra = np.array([exact_eigenvalues(run, step=int(step))[::-1] for step in steps])
                for step, value, triple in zip(steps, loss, spectra, strict=True):
                    append_row(data, l2, run.seed, int(step), float(value), *map(float, triple))
                low = loss < LOW_LOSS
                style: dict[str, Any] = {"color": colour, "marker": ".", "markersize": 3, "linewidth": 0.7}
                share.plot(loss[low], (spectra[:, 0] / spectra.sum(1))[low], **style)
                falls.plot(loss[low], spectra.sum(1)[low], **style)
                times.plot(steps[1:], spectra[1:, 0], **style)
                if not l2:
                    for rank in range(3):
                        own: dict[str, Any] = {"color": PALETTE[rank], "marker": ".", "markersize": 3, "linewidth": 0.7}
                        ranks.plot(loss[low], spectra[low, rank], label=rf"$\lambda_{rank + 1}$", **own)
        _guides(axes, done)
    handles = [Line2D([], [], color=colour, marker=".") for colour in colours]
    legend_below(figure, handles, [f"L2 = {number(l2)}" for l2 in groups])
    letter(axes)
    caption = (
        f"Hessian during training, at losses below {LOW_LOSS:g}; training goes to the left. (a) Share of the largest "
        "eigenvalue in the trace; dashed: 1 − 2 / (3 ln(1/loss)), for equal weights. (b) The three eigenvalues "
        "without L2. (c) The trace; dashed: the slope of the loss itself. (d) The largest eigenvalue at every step; "
        "dashed: 1 / (rate · steps). Eigenvalues are exact, from products in float64. Each line is a seed. "
        f"{figures.context(runs)}"
    )
    return Drawing("rank-and-loss", caption, figure, data)


def _guides(axes: Sequence[Axes], done: Sequence[Run]) -> None:
    """Set scales and labels, and draw the dashed reference curves."""
    share, ranks, falls, times = axes
    lowest = min(run.history("train_loss").min() for run in done)
    loss = np.geomspace(lowest, LOW_LOSS, 100)
    dashed: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 0.9, "zorder": 0}
    share.plot(loss, largest_share(loss), **dashed)
    share.set_ylabel(r"$\lambda_{\max}(H)\,/\,\mathrm{Tr}\,H$")
    share.set_ylim(None, 1)
    falls.plot(loss, loss / lowest * min(run.final("hessian.exact.trace") for run in done), **dashed)
    falls.set_ylabel(r"$\mathrm{Tr}\,H$")
    ranks.set_ylabel("eigenvalue of $H$, L2 = 0")
    legend_of_axis(ranks)
    steps = np.array([1, max(run.metrics[-1]["step"] for run in done)])
    times.plot(steps, 1 / (done[0].setting("optim.lr") * steps), **dashed)
    times.set_ylabel(r"$\lambda_{\max}(H)$")
    times.set_xlabel("step")
    for axis in (share, ranks, falls):
        axis.set_xlabel("loss")
        axis.set_xscale("log")
    for axis in (ranks, falls, times):
        axis.set_yscale("log")
    times.set_xscale("log")


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The reparameterised trained weights without L2, and the Hessian after training by L2."""
    return [tabulate_reparameterised(runs), tabulate_trained(runs)]


def tabulate_reparameterised(runs: Sequence[Run]) -> Table:
    """The quantities of the copies by α: geometric means over pairs of weights and seeds."""
    chosen = without_l2(finished(runs))
    scales = np.unique(reparameterised_copies(chosen[0])["scale"])
    rows = []
    for scale in scales:
        cells = []
        for quantity in QUANTITIES.values():
            each = map(reparameterised_copies, chosen)
            values = np.concatenate([quantity.values(copies)[copies["scale"] == scale] for copies in each])
            cells.append(number(float(np.exp(np.mean(np.log(values)))), 4))
        rows.append((number(float(scale)), *cells))
    caption = (
        "One weight is multiplied by α and another divided by it, after training without L2. Geometric means over the "
        f"six pairs and {len(chosen)} seeds. |w| H |w| has the entries H_ij |w_i w_j|."
    )
    return Table(caption, ("α", *(quantity.name for quantity in QUANTITIES.values())), tuple(rows))


def tabulate_trained(runs: Sequence[Run]) -> Table:
    """The Hessian after training by L2: means over seeds."""
    columns: dict[str, Callable[[Run], float]] = {
        "loss": lambda run: run.final("train_loss"),
        "‖w‖": lambda run: run.final("weight_norm"),
        "λ₁": lambda run: float(exact_eigenvalues(run)[-1]),
        "λ₂ / λ₁": lambda run: float(exact_eigenvalues(run)[-2] / exact_eigenvalues(run)[-1]),
        "λ₃ / λ₁": lambda run: float(exact_eigenvalues(run)[-3] / exact_eigenvalues(run)[-1]),
        "Tr H": lambda run: run.final("hessian.exact.trace"),
        "λ₁ / Tr H": lambda run: 1 - rest_of_trace(run),
        "1 − 2 / (3 ln(1/loss))": lambda run: float(largest_share(np.array(run.final("train_loss")))),
        "λ₁ · rate · steps": sharpness_times_time,
    }
    rows = []
    for l2, group in by_setting(finished(runs), "optim.l2").items():
        cells = (number(float(np.mean([column(run) for run in group])), 4) for column in columns.values())
        rows.append((number(l2), *cells, str(len(group))))
    return Table(
        "Exact eigenvalues of the Hessian after training. Means over seeds.",
        ("L2", *columns, "seeds"),
        tuple(rows),
    )
