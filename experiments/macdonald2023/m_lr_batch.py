"""Learning rate and batch size at equal training loss: *On progressive sharpening*, §6.2, B.2, figs. 3, 4, 12-19."""

from collections.abc import Callable, Sequence
from dataclasses import replace
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
    network_words,
    trend,
)
from hessflat.analysis.claims import Order
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.results import Run, finished
from hessflat.analysis.strata import final_metric, follows
from hessflat.analysis.tables import table_by_group
from hessflat.report import figures

RATE, BATCH = "optim.lr", "train.batch_size"
PANELS = (*(panel for panel in SIX if panel[0] != "validation_accuracy"), ("test_accuracy", "test accuracy (%)"))
WITHOUT_NUMBERS = "a figure without numbers"
METRICS = {
    "sharpness": (SHARPNESS, "λ_max(H)"),
    "jacobian": (JACOBIAN, "max ‖∂f/∂x‖₂"),
    "gap": (GAP, "|train − test loss|"),
}


def reached(runs: Sequence[Run]) -> list[Run]:
    """The runs that ended at the target loss; the others are not comparable."""
    return [run for run in finished(runs) if run.manifest.get("reason")]


def missed(runs: Sequence[Run]) -> str:
    """The text of how many runs did not reach the target loss; empty where all did."""
    count = len(runs) - len(reached(runs))
    return f"{count} of {len(runs)} runs did not reach the loss to stop at and are left out." if count else ""


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figures 3, 4 and 12 to 19: six numbers against the learning rate by batch size, and against the batch size by
    rate.
    """
    drawings = []
    for words, group in by_network(runs).items():
        for x, lines in ((RATE, BATCH), (BATCH, RATE)):
            name = f"{words.lower()}-against-{'rate' if x == RATE else 'batch'}"
            if compared := reached(group):
                drawing = figures.panels_against(compared, x, PANELS, name, lines)
                caption = " ".join(filter(None, [f"{words}.", drawing.caption, missed(group)]))
                drawings.append(drawing._replace(caption=caption))
    return drawings


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The metrics of `COLUMNS` by learning rate and batch size, and the last step: one table for each network."""
    tables = []
    for words, group in by_network(runs).items():
        cells: dict[tuple, list[Run]] = {}
        for run in reached(group):
            cells.setdefault((run.setting(RATE), run.setting(BATCH)), []).append(run)
        columns = (*COLUMNS, ("steps", "step", ".0f"))
        caption = " ".join(filter(None, [f"{words}, trained to one loss.", missed(group), MEASURED]))
        tables.append(table_by_group(dict(sorted(cells.items())), (RATE, BATCH), columns, caption))
    return tables


def on_reached(decide: Callable[[Sequence[Run]], Evidence], runs: Sequence[Run]) -> Evidence:
    """The rule `decide` on the runs that reached the target loss, with the number of other runs."""
    evidence = decide(reached(runs))
    addition = f"; {missed(runs).removesuffix('.')}" if missed(runs) else ""
    return evidence._replace(
        explanation=evidence.explanation + addition, rule=f"{evidence.rule}; of runs that reached the loss to stop at"
    )


def gap_at_the_largest_rate(runs: Sequence[Run]) -> Evidence:
    """Does the gap decrease with the Jacobian norm over batch sizes, for ResNets at the largest learning rate?"""
    chosen = [run for run in runs if run.setting("model.name") != "vgg"]
    largest = max((run.setting(RATE) for run in chosen), default=None)
    chosen = [run for run in chosen if run.setting(RATE) == largest]
    alike = "ResNets of one kind at the largest learning rate"
    return follows(chosen, final_metric(GAP), final_metric(JACOBIAN), network_words, "decreases", alike=alike)


def claims_of_trends(setting: str, words: str, statement: str, expect: Order) -> list[Claim]:
    """The claims on how metrics at the end of training depend on the learning rate or the batch size, named `words`."""
    where = "§6.2, figs. 3, 12-15" if setting == RATE else "§6.2, figs. 4, 16-19"
    name = "rate" if setting == RATE else "batch"
    trends = [
        trend(
            id=f"{name}-{what}",
            where=where,
            statement=f"{statement} {called}",
            paper_value=WITHOUT_NUMBERS,
            metric=metric,
            setting=setting,
            expect=expect,
        )
        for what, (metric, called) in METRICS.items()
    ]
    trends.append(
        gap_goes_with(
            id=f"{name}-gap-follows-jacobian",
            where=where,
            statement=f"as {words} changes, the gap follows the Jacobian norm",
            paper_value=WITHOUT_NUMBERS,
            setting=setting,
        )
    )
    return [replace(claim, decide=partial(on_reached, claim.decide)) for claim in trends]


EXPERIMENT = Experiment(
    id="m_lr_batch",
    paper="M",
    question="At equal training loss, do larger rates and smaller batches lower sharpness, Jacobian norm and gap?",
    config="m_lr_batch",
    regularisers=(RATE, BATCH),
    draw=draw,
    tabulate=tabulate,
    claims=(
        *claims_of_trends(RATE, "the learning rate", "larger rates lower", "decreases"),
        *claims_of_trends(BATCH, "the batch size", "smaller batches lower", "increases"),
        Claim(
            id="resnet-at-the-largest-rate",
            paper="M",
            where="§6.2, fig. 4",
            statement="for ResNet at the largest rate, the gap falls as the Jacobian norm rises",
            paper_value="the inverse of what is expected",
            decide=partial(on_reached, gap_at_the_largest_rate),
        ),
    ),
    notes="We leave out runs that do not reach the training loss to stop at, because the paper compares at equal loss.",
)
