"""Is a network as steep as its targets ask? *On progressive sharpening*, section 5, eq. 11."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from experiments.macdonald2023.label_smoothing import JACOBIAN, SMOOTHING
from hessflat.analysis import claims, limits
from hessflat.analysis.designs import TENTH
from hessflat.analysis.experiment import Claim, Drawing, Experiment, Table
from hessflat.analysis.histories import at_common_steps, series
from hessflat.analysis.names import number
from hessflat.analysis.results import Run
from hessflat.analysis.tables import table_by
from hessflat.report import figures
from hessflat.report.figures.style import Panel

BOUND, SLOPE = "pair_slopes.targets", "pair_slopes.outputs"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """The bound, the steepest slope between two examples and the largest Jacobian norm, over training."""
    caption = (
        "The least slope that fits the targets (eq. 11 of *On progressive sharpening*), the steepest slope between two "
        "examples, and the largest Jacobian norm of the softmaxed network over them, over training, with labels "
        f"smoothed more and less. Mean over seeds, band ± 1 std. {figures.context(runs)}"
    )
    panels = (Panel(BOUND, "least slope\nfor the targets"), Panel(SLOPE, "steepest slope\nof a pair"), Panel(JACOBIAN))
    return [figures.grid_over_training({"": runs}, panels, SMOOTHING, "slopes", caption, x="epoch")]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The three slopes at the end of training."""
    columns = (
        ("bound", BOUND, ".3g"),
        ("steepest pair", SLOPE, ".3g"),
        ("max ‖∂σ(f)/∂x‖", JACOBIAN, ".3g"),
        ("train acc", "train_accuracy", ".1%"),
    )
    return [table_by(runs, SMOOTHING, columns, "Slopes of the softmaxed network.")]


def least_excess(run: Run) -> float:
    """The least of max ‖∂σ(f)/∂x‖ over the bound, at measured steps where the bound is above 0; 1 where it never is."""
    bound, norm = at_common_steps([series(run, BOUND), series(run, JACOBIAN)])[1]
    told = bound > 0
    return float((norm[told] / bound[told]).min()) if told.any() else 1.0


def rise(run: Run, metric: str) -> float:
    """The last value in training less the first."""
    values = series(run, metric)[1]
    return float(values[-1] - values[0])


def largest(run: Run, metric: str) -> float:
    """The largest value in training."""
    return float(np.max(series(run, metric)[1]))


EXPERIMENT = Experiment(
    id="m_lower_bound",
    paper="M",
    question="Is the Jacobian norm at least the slope that the targets ask for, and do both grow in training?",
    config="m_lower_bound",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="jacobian-above-the-bound",
            paper="M",
            where="§5, eq. 11",
            statement="the largest Jacobian norm of a sample is at least the slope that its targets ask for",
            paper_value="an inequality",
            decide=partial(
                limits.exceeds,
                statistic=least_excess,
                limit=1.0,
                what="max ‖∂σ(f)/∂x‖ over the bound, the least over training",
                scale="log",
            ),
        ),
        Claim(
            id="bound-grows",
            paper="M",
            where="§5",
            statement="the slope that the targets ask for grows as the network fits them",
            paper_value="gets higher the more one lowers ε",
            decide=partial(
                limits.exceeds,
                statistic=partial(rise, metric=BOUND),
                limit=0.0,
                what="rise of the bound in training",
                least=TENTH,
            ),
        ),
        Claim(
            id="jacobian-grows",
            paper="M",
            where="§5",
            statement="training increases the largest Jacobian norm of the sample",
            paper_value="one will expect this Lipschitz norm to increase",
            decide=partial(
                limits.exceeds,
                statistic=partial(rise, metric=JACOBIAN),
                limit=0.0,
                what="rise of max ‖∂σ(f)/∂x‖ in training",
                least=TENTH,
            ),
        ),
        *(
            Claim(
                id=f"smoothing-lowers-{name}",
                paper="M",
                where="§5",
                statement=f"closer targets make {words} smaller",
                paper_value="more or less severe by scaling the distances between target values",
                decide=partial(
                    claims.in_order,
                    statistic=partial(largest, metric=metric),
                    what=f"{words}, the largest in training",
                    by=SMOOTHING,
                    expect="decreases",
                    write=lambda value: number(value, 3),
                ),
            )
            for name, metric, words in (
                ("bound", BOUND, "the slope that is asked for"),
                ("jacobian", JACOBIAN, "max ‖∂σ(f)/∂x‖"),
            )
        ),
    ),
    notes="We take ε of each example instead of one for all, which never lowers the bound.",
)
