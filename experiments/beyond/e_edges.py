"""Does every optimiser train at the edge of its stability? Cohen et al. 2021 and 2022, Long and Bartlett 2024."""

from collections.abc import Sequence
from functools import partial

import matplotlib
import numpy as np

from hessflat.analysis import limits
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Tuned
from hessflat.analysis.histories import at_common_steps, series
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished, grouped
from hessflat.analysis.statistics import estimate
from hessflat.analysis.strata import in_each_group
from hessflat.plot.style import GREY, STYLE, letter, ordered_colours
from hessflat.report import figures
from hessflat.report.figures.style import append_row, draw_mean_and_range, new_columns, new_figure

RATIO, BATCH_RATIO = "edge.ratio", "edge.batch_ratio"
RATE = "optim.lr"
# The last third of training, over which a run is averaged.
LATE = 2 / 3
METHODS = ("GD", "momentum", "Adam", "SAM", "SGD")
# What is compared with the edge, and the edge, by method.
FORMULAS = {
    "GD": "λ_max(H) / (2/η)",
    "momentum": "λ_max(H) / ((2 + 2β)/η)",
    "Adam": "λ_max(P⁻¹H) / ((2 + 2β₁)/((1 − β₁)η))",
    "SAM": "λ_max(H) / (‖g‖/(2ρ) (√(1 + 8ρ/(η‖g‖)) − 1))",
    "SGD": "λ_max(H) / (2/η), and batch sharpness",
}


def method_of(run: Run) -> str:
    """Which optimiser a run has."""
    if run.setting("optim.name") == "adam":
        return "Adam"
    if run.setting("optim.sam_radius"):
        return "SAM"
    if run.setting("train.batch_size"):
        return "SGD"
    return "momentum" if run.setting("optim.sgd.momentum") else "GD"


def late_mean(run: Run, metric: str = RATIO) -> float:
    """The mean of a metric over the measurements of the last third of a run."""
    steps, values = series(run, metric)
    return float(values[steps >= LATE * steps[-1]].mean())


def at_its_edge(runs: Sequence[Run], method: str, within: float, metric: str = RATIO, of: str = "λ_max") -> Evidence:
    """Is the late mean of a ratio within a margin of 1, at every rate of a method?"""
    own = [run for run in runs if method_of(run) == method]
    what = f"{of} over its edge, a mean over the last third of training,"
    rule = partial(
        limits.lies_within,
        statistic=lambda run: late_mean(run, metric),
        low=1 - within,
        high=1 + within,
        what=what,
    )
    groups = {f"η = {number(rate)}": group for rate, group in by_setting(own, RATE).items()}
    return in_each_group(groups, lambda group: rule(group), "learning rate")


def below_the_edge_of_gd(runs: Sequence[Run]) -> Evidence:
    """Is λ_max(H) of SAM below 0.8 of 2/η, the edge of gradient descent, late in training?"""

    def over_gd(run: Run) -> float:
        return late_mean(run, "edge.lambda_max") * run.setting(RATE) / 2

    own = [run for run in runs if method_of(run) == "SAM"]
    return limits.falls_below(own, over_gd, 0.8, "late mean of λ_max(H) over 2/η under SAM,", scale="log")


def sgd_below(runs: Sequence[Run]) -> Evidence:
    """Is λ_max(H) of SGD below 0.97 of 2/η late in training, further than gradient descent is from it?"""
    own = [run for run in runs if method_of(run) == "SGD"]
    return limits.falls_below(own, late_mean, 0.97, "late mean of λ_max(H) over 2/η under SGD,", scale="log")


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """The ratio over training, a panel for each optimiser."""
    groups = grouped(finished(runs), method_of)
    shown = [method for method in METHODS if method in groups]
    figure, axes = new_figure(-(-max(len(shown), 1) // 3), min(max(len(shown), 1), 3), 2.1)
    data = new_columns("optimiser", "rate", "quantity", "step", "seeds", "mean", "low", "high")
    with matplotlib.rc_context(STYLE):
        for axis, method in zip(axes, shown, strict=False):
            rates = by_setting(groups[method], RATE)
            for colour, (rate, own) in zip(ordered_colours(len(rates)), rates.items(), strict=True):
                curves = {RATIO: "-"} | ({BATCH_RATIO: ":"} if method == "SGD" else {})
                for metric, line in curves.items():
                    steps, values = at_common_steps([series(run, metric) for run in own])
                    label = f"η = {number(rate)}" if metric == RATIO else "batch sharpness"
                    if method == "SAM":
                        label += f", ρ = {number(own[0].setting('optim.sam_radius'))}"
                    numbers = draw_mean_and_range(axis, steps, values, colour, False, linestyle=line, label=label)
                    for step, *cells in zip(steps, *numbers, strict=True):
                        append_row(data, method, rate, metric, float(step), len(own), *map(float, cells))
            axis.axhline(1, color=GREY, linestyle=(0, (4, 2)), linewidth=0.9, zorder=0.5)
            axis.set(ylim=(0, 1.6), xlabel="step", title=method)
            axis.legend(loc="best")
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        for axis in axes[::3]:
            axis.set_ylabel(r"$\lambda_{\max}$ over its edge")
    letter(axes[: len(shown)])
    caption = (
        "Largest eigenvalue of the matrix that decides stability, over the largest one at which the optimiser is "
        f"stable on a quadratic ({'; '.join(f'{m}: {FORMULAS[m]}' for m in shown)}). Lines are means over seeds; bands "
        f"are from smallest to largest. {figures.context(runs)}"
    )
    return [Drawing("edges", caption, figure, data)]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The late ratio of every optimiser at every rate, with its interval over seeds."""
    rows = []
    for method, own in grouped(finished(runs), method_of).items():
        for rate, group in by_setting(own, RATE).items():
            batch = method == "SGD"
            bars = np.mean([late_mean(run, "edge.batch_ratio_se") for run in group]) if batch else np.nan
            rows.append(
                (
                    method,
                    number(rate),
                    number(float(np.mean([late_mean(run, "edge.threshold") for run in group])), 3),
                    _interval([late_mean(run) for run in group]),
                    _interval([late_mean(run, BATCH_RATIO) for run in group]) if batch else "",
                    f"{bars:.3f}" if batch else "",
                    f"{np.mean([run.final('train_loss') for run in group]):.2g}",
                    str(len(group)),
                )
            )
    header = (
        "optimiser", "η", "edge", "λ_max over its edge", "batch sharpness over its edge", "± over mini-batches",
        "train loss", "seeds",
    )  # fmt: skip
    caption = (
        "Means over the last third of training and over seeds; ± is the half width of the 95 % t-interval over seeds. "
        "The standard error over mini-batches is that of one measurement."
    )
    return [Table(caption, header, tuple(rows))]


def _interval(values: Sequence[float]) -> str:
    one = estimate(values).interval
    return f"{one.mean:.3f} ± {one.high - one.mean:.3f}" if len(values) > 1 else f"{one.mean:.3f}"


EXPERIMENT = Experiment(
    id="e_edges",
    paper="hessflat",
    question="Does training with each optimiser end at the edge of stability of that optimiser?",
    config="e_edges",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="gradient-descent",
            paper="hessflat",
            where="Cohen et al. 2021, §3",
            statement="λ_max(H) of gradient descent is at 2/η late in training",
            paper_value="“hovers just above 2/η”",
            decide=partial(at_its_edge, method="GD", within=0.03),
        ),
        Claim(
            id="momentum",
            paper="hessflat",
            where="Cohen et al. 2021, §3 and appendix",
            statement="λ_max(H) of gradient descent with momentum β is at (2 + 2β)/η late in training",
            paper_value="figures without numbers",
            decide=partial(at_its_edge, method="momentum", within=0.03),
        ),
        Claim(
            id="adam",
            paper="hessflat",
            where="Cohen et al. 2022, §3",
            statement="λ_max(P⁻¹H) of Adam is at (2 + 2β₁)/((1 − β₁)η) late in training",
            paper_value="38/η at β₁ = 0.9",
            decide=partial(at_its_edge, method="Adam", within=0.03),
        ),
        Claim(
            id="sam",
            paper="hessflat",
            where="Long and Bartlett 2024, §3",
            statement="λ_max(H) of SAM is at its own edge late in training",
            paper_value="figures without numbers",
            decide=partial(at_its_edge, method="SAM", within=0.06),
        ),
        Claim(
            id="sam-below-gd",
            paper="hessflat",
            where="Long and Bartlett 2024, §1",
            statement="the edge of SAM is well below 2/η",
            paper_value="figures without numbers",
            decide=below_the_edge_of_gd,
        ),
        Claim(
            id="sgd-below",
            paper="hessflat",
            where="Cohen et al. 2021, §6; Andreyev and Beneventano 2024, §1",
            statement="λ_max(H) of SGD stays below 2/η",
            paper_value="figures without numbers",
            decide=sgd_below,
        ),
        Claim(
            id="sgd-batch-sharpness",
            paper="hessflat",
            where="Andreyev and Beneventano 2024, §3",
            statement="the batch sharpness of SGD is at 2/η late in training",
            paper_value="figures without numbers",
            decide=partial(at_its_edge, method="SGD", within=0.06, metric=BATCH_RATIO, of="batch sharpness"),
        ),
    ),
    notes=(
        "The papers train larger networks for longer: the claims are theirs, the settings are ours. P is the "
        "preconditioner of the last update, with both bias corrections."
    ),
    tuned=(
        Tuned("small", (0,), "the learning rates and numbers of steps"),
        Tuned("medium", (30,), "the network, the learning rates and numbers of steps"),
    ),
)
