"""When do sharpness and Jacobian collapse? *On progressive sharpening*, appendix C.1, figures 28 and 29."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from experiments.macdonald2023.label_smoothing import (
    JACOBIAN,
    LOSS,
    NORM,
    SHARPNESS,
    SMOOTHING,
    less_growth,
)
from hessflat.analysis import limits
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Tuned
from hessflat.analysis.histories import LATE, late_growth_factor, late_value, remaining_share, series
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.strata import labelled
from hessflat.report import figures
from hessflat.report.figures.style import Panel

Rule = Callable[[Sequence[Run]], Evidence]

LOGITS = "jacobian.max"
PANELS = (Panel(SHARPNESS), Panel(JACOBIAN), Panel(NORM, r"$\|F(X)\|_F$"))
LATER = (
    Panel(SHARPNESS, "", "log"),
    Panel(JACOBIAN, "", "log"),
    Panel(NORM, r"$\|F(X)\|_F$", "log"),
    Panel(LOSS, "loss less label\nentropy (nats)", "log"),
)


def split(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs without label smoothing, and the runs with it."""
    return [run for run in runs if not run.setting(SMOOTHING)], [run for run in runs if run.setting(SMOOTHING)]


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figures 28 and 29."""
    modes = (
        "Sharpness is λ_max(H) of the measured loss, label smoothing included. Sharpness and the Frobenius norm of "
        "the logits are over all measured examples, with batch norm in train mode. The Jacobian norm is the largest "
        "over these examples of the softmaxed network, in batch norm's eval mode. Mean over seeds, band ± 1 std"
    )
    first = (
        f"The first epoch of SGD with labels smoothed more and less, measured every five steps. {modes}. "
        f"{figures.context(runs)}"
    )
    whole = (
        f"All epochs of SGD with labels smoothed more and less; bands end at the smallest value. {modes}. "
        f"{figures.context(runs)}"
    )
    return [
        figures.grid_over_training({"": runs}, PANELS, SMOOTHING, "first-epoch", first, to_epoch=1),
        figures.grid_over_training({"": runs}, LATER[:3], SMOOTHING, "all-epochs", whole, x="epoch"),
        figures.grid_over_training(
            {"": runs},
            (LATER[3], Panel(LOGITS, "", "log"), Panel(JACOBIAN, "", "log")),
            SMOOTHING,
            "loss-and-jacobians",
            "Loss less label entropy, and the largest input-output Jacobian norm of the logits and of the softmaxed "
            f"network. {modes}. {figures.context(runs)}",
            x="epoch",
        ),
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Start, maximum and end of each metric by label smoothing: means over seeds."""
    rows = []
    for alpha, group in by_setting(finished(runs), SMOOTHING).items():
        cells = [f"{100 * np.mean([run.final('train_accuracy') for run in group]):.1f} %"]
        cells.append(number(float(np.mean([late_value(run, LOSS) for run in group])), 3))
        for metric in (SHARPNESS, JACOBIAN, LOGITS, NORM):
            first, largest, last = (
                number(float(np.mean([function(run) for run in group])), 3)
                for function in (
                    lambda run, m=metric: series(run, m)[1][0],
                    lambda run, m=metric: series(run, m)[1].max(),
                    lambda run, m=metric: late_value(run, m),
                )
            )
            cells.append(f"{first} → {largest} → {last}")
        growth = [late_growth_factor(run, NORM) for run in group]
        rows.append((number(alpha), *cells, f"× {number(float(np.mean(growth)), 3)}", str(len(group))))
    header = (
        "smoothing", "train accuracy", "loss − entropy", "λ_max(H)", "softmaxed ‖∂σ(f)/∂x‖", "‖∂f/∂x‖", "‖F(X)‖_F",
        "‖F(X)‖_F, end over halfway", "seeds",
    )  # fmt: skip
    caption = f"Start → largest → end; an end is the mean of the last {LATE} measurements. Means over seeds."
    return [Table(caption, header, tuple(rows))]


def both(runs: Sequence[Run], plain: Rule, smoothed: Rule) -> Evidence:
    """The conjunction of one rule for the runs without smoothing and another for the runs with it."""
    without, with_it = split(runs)
    return all_hold(_of("without smoothing", plain(without)), _of("with it", smoothed(with_it)))


def _of(label: str, evidence: Evidence) -> Evidence:
    """The labelled evidence, whose rule says of which runs it is, too."""
    return labelled(label, evidence)._replace(rule=f"{label}, {evidence.rule}")


def outputs_grow(runs: Sequence[Run]) -> Evidence:
    """Does ‖F(X)‖_F grow by more than 5 % in the second half of training without smoothing, and by less with it?"""
    growth, what = partial(late_growth_factor, metric=NORM), "‖F(X)‖_F, end over halfway"
    return both(
        runs,
        lambda plain: limits.exceeds(plain, growth, 1.05, what, "log"),
        lambda smoothed: limits.falls_below(smoothed, growth, 1.05, what, "log"),
    )


def collapses(runs: Sequence[Run], metric: str, what: str) -> Evidence:
    """Does a metric fall below 0.1 of its maximum without smoothing, and stay above 0.25 of it with smoothing?"""
    remaining, words = partial(remaining_share, metric=metric), f"{what}, end over largest"
    return both(
        runs,
        lambda plain: limits.falls_below(plain, remaining, 0.1, words, "log"),
        lambda smoothed: limits.exceeds(smoothed, remaining, 0.25, words, "log"),
    )


EXPERIMENT = Experiment(
    id="m_smoothing_90",
    paper="M",
    question="What happens to sharpness and the Jacobian when the outputs grow without end?",
    config="m_smoothing_90",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="first-epoch-sharpness",
            paper="M",
            where="C.1, fig. 28",
            statement="in the first epoch sharpness grows less, the smoother the labels",
            paper_value="a figure without numbers",
            decide=lambda runs: less_growth(runs, SHARPNESS, "λ_max(H)", to_epoch=1),
        ),
        Claim(
            id="first-epoch-jacobian",
            paper="M",
            where="C.1, fig. 28",
            statement="in the first epoch the softmaxed Jacobian grows less, the smoother the labels",
            paper_value="a figure without numbers",
            decide=lambda runs: less_growth(runs, JACOBIAN, "max ‖∂σ(f)/∂x‖", to_epoch=1),
        ),
        Claim(
            id="outputs-grow",
            paper="M",
            where="C.1, fig. 29",
            statement="the outputs go on growing without label smoothing and stop with it",
            paper_value="“grows to infinity in the unsmoothed case”",
            decide=outputs_grow,
        ),
        Claim(
            id="sharpness-collapses",
            paper="M",
            where="C.1, fig. 29",
            statement="sharpness collapses without label smoothing and plateaus above zero with it",
            paper_value="“ultimately causing the sharpness with unsmoothed labels to collapse to zero”",
            decide=lambda runs: collapses(runs, SHARPNESS, "λ_max(H)"),
        ),
        Claim(
            id="jacobian-collapses",
            paper="M",
            where="C.1, fig. 29",
            statement="the growth of the outputs drives the softmaxed Jacobian to zero",
            paper_value="a figure without numbers",
            decide=lambda runs: collapses(runs, JACOBIAN, "max ‖∂σ(f)/∂x‖"),
        ),
        Claim(
            id="logits-do-not",
            paper="hessflat",
            where="beyond the paper; C.1",
            statement="the softmax collapses, but the Jacobian of the logits does not",
            paper_value="not in the paper, which argues it",
            decide=lambda runs: limits.exceeds(
                split(runs)[0],
                lambda run: remaining_share(run, LOGITS),
                0.5,
                "max ‖∂f/∂x‖ without smoothing, end over largest",
                "log",
            ),
        ),
    ),
    notes=(
        "The paper gives neither learning rate nor momentum nor weight decay. We take a constant rate, momentum 0.9 "
        "and no decay. A small network with batch norm on digits starts so sharp that sharpness hardly grows in the "
        "first epoch. The value of the claim says by how much. m_sharpening shows networks whose sharpness grows."
    ),
    tuned=(Tuned("small", (0, 1, 2), "network, rate, momentum and batch size"),),
)
