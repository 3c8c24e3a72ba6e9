"""Weight decay against the Jacobian, sharpness and the gap: *On progressive sharpening*, §6.1, figure 2."""

from collections.abc import Callable, Sequence
from functools import partial

from experiments.macdonald2023._end_of_training import (
    COLUMNS,
    GAP,
    JACOBIAN,
    MEASURED,
    SHARPNESS,
    SIX,
    by_network,
    gap_goes_with,
    trend,
)
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.results import Run, by_setting
from hessflat.analysis.tables import table_by
from hessflat.report import figures

DECAY, RATE = "optim.l2", "optim.lr"
FIGURE = "a figure without numbers"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figure 2, with the panels of the other experiments beside it."""
    return [
        figures.panels_against(group, DECAY, SIX, f"{words.lower()}-against-l2", lines=RATE)
        for words, group in by_network(runs).items()
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The six numbers by weight decay, a table for each initial rate."""
    return [
        table_by(group, DECAY, COLUMNS, f"{words}, initial learning rate {rate:g}. {MEASURED}")
        for words, own in by_network(runs).items()
        for rate, group in by_setting(own, RATE).items()
    ]


def at_the_largest_rate(rule: Callable[..., Evidence], runs: Sequence[Run], **settings: str) -> Evidence:
    """The rule on the runs of one initial rate, so that seeds pair."""
    groups = list(by_setting(runs, RATE).values())  # in increasing order
    return rule(groups[-1] if groups else runs, **settings)


EXPERIMENT = Experiment(
    id="m_weight_decay",
    paper="M",
    question="Without weight decay: loss and sharpness go to 0, Jacobian norm and gap stay large?",
    config="m_weight_decay",
    regularisers=(DECAY,),
    draw=draw,
    tabulate=tabulate,
    claims=(
        trend(
            "loss",
            "§6.1, fig. 2",
            "without weight decay the training loss ends nearer to 0",
            FIGURE,
            "train_loss",
            DECAY,
            "increases",
            "the training loss",
            "weight decay",
        ),
        trend(
            "sharpness",
            "§6.1, fig. 2",
            "without weight decay sharpness vanishes: the more decay, the sharper the solution",
            FIGURE,
            SHARPNESS,
            DECAY,
            "increases",
            "λ_max(H)",
            "weight decay",
        ),
        trend(
            "jacobian",
            "§6.1, fig. 2",
            "without weight decay the Jacobian norm stays relatively large",
            FIGURE,
            JACOBIAN,
            DECAY,
            "decreases",
            "max ‖∂f/∂x‖₂",
            "weight decay",
        ),
        trend(
            "gap",
            "§6.1, fig. 2",
            "without weight decay the generalisation gap stays relatively large",
            FIGURE,
            GAP,
            DECAY,
            "decreases",
            "|train − test loss|",
            "weight decay",
        ),
        gap_goes_with(
            "gap-follows-jacobian", "§6.1", "the gap goes with the Jacobian norm", FIGURE, DECAY, "weight decay"
        ),
        Claim(
            "sharper-and-better",
            "M",
            "§6.1",
            "with weight decay networks generalise better despite converging to sharper minima",
            FIGURE,
            "λ_max(H) and test accuracy at the largest initial rate, best weight decay by validation accuracy against "
            "none, paired by seed, 95 % t-interval: both larger",
            partial(at_the_largest_rate, claims.sharper_and_better),
        ),
    ),
)
