"""Figures and tables of `g_degeneracy`: the mass of the spectrum at zero during training, and its lower bounds."""

import math
from collections.abc import Sequence
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hessflat.analysis.experiment import Drawing, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished, grouped
from hessflat.analysis.spectra import zero_mass_history
from hessflat.analysis.statistics import geometric_mean
from hessflat.measures.performance import rank_bound
from hessflat.plot.style import PALETTE, STYLE, letter
from hessflat.report import figures
from hessflat.report.figures.style import append_row, epoch_axis, new_columns, new_figure

MODES = {"": "train", "_eval": "eval"}
FAMILIES = {"vgg": "VGG", "preresnet": "PreResNet"}

# What the paper takes for VGG-16 on CIFAR-10: its neurons, its inputs and its parameters.
PAPER_NEURONS, PAPER_INPUTS, PAPER_PARAMETERS = 13_416, 1_024, 1.6e7
PAPER_BOUND = 1 - rank_bound(10, PAPER_NEURONS, PAPER_INPUTS) / PAPER_PARAMETERS


def network(run: Run) -> str:
    """The name of a run's network and data set, such as `VGG-16 on cifar10`."""
    name = run.setting("model.name")
    return f"{FAMILIES[name]}-{run.setting(f'model.{name}.depth')} on {run.setting('data.name')}"


def modes_measured(runs: Sequence[Run]) -> dict[str, str]:
    """{suffix of the operators' names: mode of batch norm} of the modes that were measured."""
    return {suffix: mode for suffix, mode in MODES.items() if any(has(run, f"hessian{suffix}") for run in runs)}


def has(run: Run, operator: str) -> bool:
    """Whether a spectrum of the operator is stored at any step."""
    return any(run.has_spectrum(operator, line["step"]) for line in run.metrics)


# What is followed: a label, the operator, and how many Ritz values are taken for zero.
FOLLOWED = (
    ("H, the nearest alone", "hessian", 1),
    ("H, the two nearest", "hessian", 2),
    ("G, the nearest alone", "gauss_newton", 1),
)

BOUND_LINES: tuple[Literal["--", ":"], ...] = ("--", ":")


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """For each network, mass and Ritz value over epochs (figs. 1d, 11-14), and spectra during training (fig. 1b, c)."""
    groups = grouped(finished(runs), network)
    return [make(name, group) for name, group in groups.items() for make in (draw_tracks, draw_spectra)]


def draw_tracks(name: str, runs: Sequence[Run]) -> Drawing:
    """The mass at zero (upper row) and the Ritz value taken as zero (lower row) over epochs.

    Each mode of batch norm has a column, each seed a line.
    """
    modes = modes_measured(runs)
    figure, axes = new_figure(2, len(modes), 2.2, sharex=True, sharey="row")
    data = new_columns("mode", "followed", "seed", "epoch", "mass", "value")
    bounds = informative_bounds(runs[0])
    normed = len(modes) > 1
    with matplotlib.rc_context(STYLE):
        for column, (suffix, mode) in enumerate(modes.items()):
            masses, values = axes[column], axes[len(modes) + column]
            for colour, (label, operator, count) in zip(PALETTE, FOLLOWED, strict=False):
                for run in runs:
                    zeros = zero_mass_history(run, f"{operator}{suffix}", count)
                    for axis, shown in ((masses, zeros.mass), (values, np.abs(zeros.value))):
                        axis.plot(zeros.epochs, shown, marker="o", markersize=2.2, color=colour, linewidth=0.8)
                    for epoch, mass, value in zip(zeros.epochs, zeros.mass, zeros.value, strict=True):
                        append_row(data, mode, label, run.seed, float(epoch), float(mass), float(value))
            for line, bound in zip(BOUND_LINES, bounds.values(), strict=False):
                masses.axhline(bound, color="black", linestyle=line, linewidth=0.9)
            draw_noise(values, runs[0], f"gauss_newton{suffix}")
            values.set_yscale("log")
            epoch_axis(values, runs)
            masses.set_title(f"batch norm in {mode} mode" if normed else "")
        axes[0].set_ylabel("mass at zero, fraction of $P$")
        axes[len(modes)].set_ylabel("|Ritz value| taken for zero")
        handles = [Line2D([], [], color=PALETTE[index], marker="o", markersize=2.5) for index in range(len(FOLLOWED))]
        labels = [label for label, _, _ in FOLLOWED]
        for line, words in zip(BOUND_LINES, bounds, strict=False):
            handles.append(Line2D([], [], color="black", linestyle=line, linewidth=0.9))
            labels.append(words)
        handles.append(Line2D([], [], color="black", linestyle="-.", linewidth=0.7))
        labels.append("float32 noise of G")
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    letter(axes)
    listed = "; ".join(f"{words} {number(bound)}" for words, bound in bounds.items())
    caption = (
        f"{name}: mass of the spectrum at zero (above) and size of the Ritz value taken for zero (below) during "
        "training, for the Hessian H and the Gauss-Newton matrix G. H's peak at zero splits in two, so its two "
        f"nearest Ritz values are combined, at their weighted mean. Each of {len(runs)} seeds has a line. "
        f"{listed.capitalize() or 'The bound 1 − rank/P is not above 0 here, so it says nothing'}. "
        f"{figures.context(runs)}"
    )
    return Drawing(f"degeneracy-{name.replace(' ', '-')}", caption, figure, data)


def informative_bounds(run: Run) -> dict[str, float]:
    """{label: bound} of the paper's lower bounds 1 − rank/P (§3.2, eq. 11) that are above 0."""
    bounds = {"bound from the model's own layers": run.final("zero_mass_bound")}
    if is_papers(run):
        bounds["bound from the paper's count"] = PAPER_BOUND
    return {words: bound for words, bound in bounds.items() if bound > 0}


def is_papers(run: Run) -> bool:
    """Whether it is the network of §3.2, VGG-16 on CIFAR-10."""
    return network(run) == "VGG-16 on cifar10"


def draw_noise(axis: Axes, run: Run, operator: str) -> None:
    """Draw the noise floor of the operator over epochs; smaller eigenvalues are indistinguishable from zero."""
    floor = run.history(f"{operator}.noise_floor")
    known = np.isfinite(floor)
    axis.plot(run.history("epoch")[known], floor[known], color="black", linestyle="-.", linewidth=0.7)


def draw_spectra(name: str, runs: Sequence[Run]) -> Drawing:
    """The spectra of the first seed during training."""
    return figures.spectra_over_training(runs[0], f"spectra-{name.replace(' ', '-')}", name)


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """One row for each network, mode and operator: the smallest and last mass at zero, and the Ritz value taken as
    zero.
    """
    rows = []
    for name, group in grouped(finished(runs), network).items():
        own, bounds = group[0].final("zero_mass_bound"), informative_bounds(group[0])
        paper = number(bounds.get("bound from the paper's count", math.nan))
        for suffix, mode in modes_measured(group).items():
            for label, operator, count in FOLLOWED:
                tracks = [zero_mass_history(run, f"{operator}{suffix}", count) for run in group]
                rows.append(
                    (
                        name,
                        mode if len(modes_measured(group)) > 1 else "–",
                        label,
                        spread([zeros.mass.min() for zeros in tracks]),
                        spread([zeros.mass[-1] for zeros in tracks]),
                        f"{own:.4f}" if own > 0 else "≤ 0",
                        paper,
                        f"{geometric_mean([np.abs(zeros.value) for zeros in tracks]):.1e}",
                        spread([zeros.second.max() for zeros in tracks]),
                        str(len(group)),
                    )
                )
    caption = (
        "Mass at zero: the smallest over the measured steps and that at the end of training, beside 1 − rank/P from "
        "the model's own layers and from the paper's count. |λ| is the size of the Ritz value taken for zero, a "
        "geometric mean over steps. The second's share is that of the second nearest Ritz value in the mass of the "
        "two nearest: the largest over steps, 0 where there is one peak. Mean ± std over seeds."
    )
    header = ("network", "batch norm", "zero", "smallest", "at the end", "bound", "paper's bound", "|λ|", "2nd's share")
    return [Table(caption, (*header, "seeds"), tuple(rows))]


def spread(values: Sequence[float]) -> str:
    """The text of a mean and, for several values, its standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"
