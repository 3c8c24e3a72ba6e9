"""Which size gives the second moment of *Flatness is a False Friend*, figure 3: the paper's units or its parameters?"""

import math
from collections.abc import Sequence
from functools import partial

from experiments.granziol2020.weight_decay import CURVATURE_COLUMNS, PERFORMANCE_COLUMNS, measured_table
from hessflat.analysis import limits
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Tuned
from hessflat.analysis.results import Run, by_setting
from hessflat.report import figures

HIDDEN, MOMENT = "model.mlp.hidden", "hessian.second_moment"
# L2 -> the paper's "Frobenius norm", which is ‖H‖_F² / P. It gives two, without saying at which L2 the second is.
PAPER = {0.0: 0.12, 5e-4: 0.16}
DECADES = 1.0


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Second moment, λ_max and accuracies against L2, a line for each network."""
    panels = ((MOMENT, "", "log"), ("hessian.lambda_max", "", "log"), ("train_accuracy",), ("validation_accuracy",))
    return [figures.panels_against(runs, panels=panels, name="second-moment", lines=HIDDEN)]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Performance and curvature by L2, a table of each for either network."""
    tables = [
        measured_table(own, "optim.l2", columns, f"Hidden units: {hidden[0]}. {caption}")
        for hidden, own in by_setting(runs, HIDDEN).items()
        for columns, caption in (
            (PERFORMANCE_COLUMNS, "Losses in nats and accuracies on clean examples."),
            (CURVATURE_COLUMNS, "Curvature of the training loss."),
        )
    ]
    return [table for table in tables if table is not None]


def decades_off(run: Run) -> float:
    """|log₁₀ of the second moment over the paper's|."""
    return abs(math.log10(run.final(MOMENT) / PAPER[run.setting("optim.l2")]))


def of_order(runs: Sequence[Run], units: int) -> Evidence:
    """Is the second moment of the network with so many units within a factor of ten of the paper's at every L2?"""
    own = [run for run in runs if run.setting(HIDDEN) == (units,) and run.setting("optim.l2") in PAPER]
    what = f"|log₁₀| of ‖H‖_F² / P over the paper's, {units} hidden units"
    return limits.falls_below(own, decades_off, DECADES, what)


EXPERIMENT = Experiment(
    id="g_mlp_size",
    paper="G",
    question=(
        "Which perceptron has the paper's second moment: that with 100 hidden units or that with 9,960 parameters?"
    ),
    config="g_mlp_size",
    draw=draw,
    tabulate=tabulate,
    claims=tuple(
        Claim(
            id=name,
            paper="G",
            where="§4, fig. 3",
            statement=f"{words} give a second moment of the size of the paper's",
            paper_value="0.12, with L2 0.16",
            decide=partial(of_order, units=units),
        )
        for name, words, units in (
            ("hundred-units", "100 hidden units (the paper's number, P = 79,510)", 100),
            ("ten-thousand-parameters", "12 hidden units (P = 9,550, for the paper's 9,960)", 12),
        )
    ),
    notes=(
        "The paper's network ends with a training accuracy of 96.88 %. A network with 100 hidden units passes that "
        "within a few epochs."
    ),
    tuned=(Tuned("paper", (100,), "the number of hidden units"),),
)
