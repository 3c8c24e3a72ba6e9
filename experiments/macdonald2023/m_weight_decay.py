"""How does weight decay change Jacobian norm, sharpness and gap? *On progressive sharpening*, §6.1, figure 2."""

from collections.abc import Callable, Sequence
from functools import partial

from experiments.macdonald2023.end_of_training import (
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
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.results import Run, by_setting
from hessflat.analysis.tables import table_by
from hessflat.report import figures

DECAY, RATE = "optim.l2", "optim.lr"
FIGURE = "a figure without numbers"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figure 2, with the panels of the other experiments of §6."""
    return [
        figures.panels_against(group, DECAY, SIX, f"{words.lower()}-against-l2", lines=RATE)
        for words, group in by_network(runs).items()
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The metrics of `COLUMNS` by weight decay: one table for each initial learning rate."""
    return [
        table_by(group, DECAY, COLUMNS, f"{words}, initial learning rate {rate:g}. {MEASURED}")
        for words, own in by_network(runs).items()
        for rate, group in by_setting(own, RATE).items()
    ]


def at_the_largest_rate(rule: Callable[..., Evidence], runs: Sequence[Run], **settings: str) -> Evidence:
    """The rule restricted to the runs of the largest initial learning rate, in which seeds pair."""
    groups = list(by_setting(runs, RATE).values())  # in increasing order
    evidence = rule(groups[-1] if groups else runs, **settings)
    return evidence._replace(rule=f"{evidence.rule}; at the largest learning rate")


def sharper_and_better(runs: Sequence[Run]) -> Evidence:
    """Does weight decay both sharpen the solution and raise its test accuracy? The paper says both."""
    return all_hold(
        claims.compare(runs, "hessian.lambda_max"), claims.compare(runs, "test_accuracy", scale="difference")
    )


EXPERIMENT = Experiment(
    id="m_weight_decay",
    paper="M",
    question="Without weight decay, do loss and sharpness go to 0 while Jacobian norm and gap stay large?",
    config="m_weight_decay",
    regularisers=(DECAY,),
    draw=draw,
    tabulate=tabulate,
    claims=(
        trend(
            id="loss",
            where="§6.1, fig. 2",
            statement="without weight decay the training loss ends nearer to 0",
            paper_value=FIGURE,
            metric="train_loss",
            setting=DECAY,
            expect="increases",
        ),
        trend(
            id="sharpness",
            where="§6.1, fig. 2",
            statement="without weight decay sharpness vanishes: the more decay, the sharper the solution",
            paper_value=FIGURE,
            metric=SHARPNESS,
            setting=DECAY,
            expect="increases",
        ),
        trend(
            id="jacobian",
            where="§6.1, fig. 2",
            statement="without weight decay the Jacobian norm stays relatively large",
            paper_value=FIGURE,
            metric=JACOBIAN,
            setting=DECAY,
            expect="decreases",
        ),
        trend(
            id="gap",
            where="§6.1, fig. 2",
            statement="without weight decay the generalisation gap stays relatively large",
            paper_value=FIGURE,
            metric=GAP,
            setting=DECAY,
            expect="decreases",
        ),
        gap_goes_with(
            id="gap-follows-jacobian",
            where="§6.1",
            statement="the gap follows the Jacobian norm",
            paper_value=FIGURE,
            setting=DECAY,
        ),
        Claim(
            id="sharper-and-better",
            paper="M",
            where="§6.1",
            statement="with weight decay networks generalise better despite converging to sharper minima",
            paper_value=FIGURE,
            decide=partial(at_the_largest_rate, sharper_and_better),
        ),
    ),
)
