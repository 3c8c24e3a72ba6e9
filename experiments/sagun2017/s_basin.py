"""Do large and then small batches stay in one basin? *Empirical Analysis of the Hessian*, §4.1, figures 8, 9.

Part I trains in large batches from random weights. Part II continues in small batches from the end of Part I.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from hessflat.analysis import claims, limits
from hessflat.analysis.designs import FACTOR, LN_FACTOR, POINT
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Tuned
from hessflat.analysis.interpolation import asymmetry, error_barrier, extremes_around_switch, rises
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.tables import table_by
from hessflat.report import figures
from hessflat.utils.errors import InputError

SPLITS = ("train", "test")
METRICS = tuple(f"{split}_{quantity}" for split in SPLITS for quantity in ("loss", "accuracy"))
BATCH = "train.batch_size"
# The loss of a guess among ten classes, in nats: what a barrier is measured by.
GUESS = math.log(10)
PERFORMANCE = tuple(
    (f"{split} {'acc' if quantity == 'accuracy' else quantity}", f"{split}_{quantity}", style)
    for quantity, style in (("loss", ".3g"), ("accuracy", ".2%"))
    for split in SPLITS
)


class Parts(NamedTuple):
    """The two runs of one seed: Part I (LB, large batches) and Part II (SB, small batches)."""

    large: Run
    small: Run


def by_steps(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """Runs grouped by the number of steps of a part, in increasing order; the first group is the paper's experiment."""
    return by_setting(runs, "train.steps")


def published(runs: Sequence[Run]) -> list[Run]:
    """The runs with the paper's number of steps."""
    return next(iter(by_steps(runs).values()), [])


def longer(runs: Sequence[Run]) -> list[Run]:
    """The runs with more steps, in which Part I reaches a lower loss."""
    return [run for own in list(by_steps(runs).values())[1:] for run in own]


def is_second(run: Run) -> bool:
    """Whether a run is a Part II."""
    return bool(run.setting("train.init_from"))


def parts_by_seed(runs: Sequence[Run]) -> dict[int, Parts]:
    """{seed: both parts} of the seeds for which both have finished, in the order of seeds."""
    done = finished(runs)
    large = {run.seed: run for run in done if not is_second(run)}
    small = {run.seed: run for run in done if is_second(run)}
    return {seed: Parts(large[seed], small[seed]) for seed in sorted(large.keys() & small.keys())}


def jump(parts: Parts, metric: str) -> tuple[float, float]:
    """The largest loss (or smallest accuracy) just before and just after the switch.

    These are the last records of Part I and equally many first ones of Part II, a tenth of them.
    """
    worst = np.min if metric.endswith("accuracy") else np.max
    return extremes_around_switch(parts.large.history(metric), parts.small.history(metric), worst)


def loss_barrier(run: Run) -> float:
    """The barrier in training loss on the line between both ends, over ln(number of classes)."""
    return run.final("line.train_barrier") / GUESS


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figures 8 and 9, for the paper's number of steps and for longer parts."""
    complete = [own for own in by_steps(runs).values() if parts_by_seed(own)]
    if not complete:
        _some([])
    return [drawing for own in complete for drawing in _draw(own, "" if own is complete[0] else "-longer")]


def _draw(runs: Sequence[Run], suffix: str) -> list[Drawing]:
    parts = _some(runs)
    sizes = _sizes(parts)
    first = parts[min(parts)]
    steps = first.large.history("step"), first.small.history("step")
    places = np.concatenate([steps[0], steps[0][-1] + steps[1][1:]])
    joined = {metric: np.array([_joined(pair, metric) for pair in parts.values()]) for metric in METRICS}
    lines = [pair.small.spectrum("line") for pair in parts.values()]
    along = {name: np.array([line[name] for line in lines]) for name in METRICS}
    seeds = "one seed" if len(parts) == 1 else f"mean (of losses: geometric) and range over {len(parts)} seeds"
    lengths = np.mean([line["distance"] for line in lines])
    every = int(steps[0][1] - steps[0][0])
    return [
        figures.curves_with_bands(
            _panels(places, joined),
            "iterations",
            f"two-parts{suffix}",
            f"(a) Loss and (b) accuracy on both splits every {every} iterations: Part I in batches of {sizes[0]}, "
            f"then, from its end point, Part II in batches of {sizes[1]} at the same constant learning rate "
            f"{number(first.large.setting('optim.lr'))}; {seeds}. {figures.context(runs)}",
            {"switch": float(steps[0][-1])},
        ),
        figures.curves_with_bands(
            _panels(lines[0]["alphas"], along),
            "interpolation coefficient α",
            f"line{suffix}",
            f"(a) Loss and (b) accuracy on both splits at (1 − α) LB + α SB, the straight line through the end point "
            f"of Part I (LB, batches of {sizes[0]}) and that of Part II (SB, batches of {sizes[1]}), and beyond them. "
            f"One unit of α is ‖SB − LB‖₂, {number(lengths, 3)} on average; {seeds}. {figures.context(runs)}",
            {"LB": 0.0, "SB": 1.0},
        ),
    ]


def _joined(parts: Parts, metric: str) -> np.ndarray:
    """The records of both parts in one; the switch, which both record, once."""
    return np.concatenate([parts.large.history(metric), parts.small.history(metric)[1:]])


def _panels(places: np.ndarray, values: dict[str, np.ndarray]) -> list[figures.CurvePanel]:
    losses, accuracies = ({split: values[f"{split}_{what}"] for split in SPLITS} for what in ("loss", "accuracy"))
    return [
        figures.CurvePanel("train_loss", places, losses, "loss (nats)", "log"),
        figures.CurvePanel("train_accuracy", places, accuracies, "accuracy"),
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The end points of both parts, and the line between them for each seed."""
    rows = []
    for steps, own in by_steps(runs).items():
        for seed, parts in parts_by_seed(own).items():
            line = parts.small.spectrum("line")
            large, small = rises(line)
            barriers = parts.small.final("line.train_barrier"), parts.small.final("line.test_barrier")
            losses = (number(loss, 3) for loss in (*jump(parts, "train_loss"), *barriers))
            error = f"{100 * error_barrier(line):.2f} points"
            rest = (number(x, 3) for x in (large, small, float(line["distance"])))
            rows.append((f"{steps:,}", str(seed), *losses, error, *rest))
    if not rows:
        _some([])
    header = (
        "steps a part", "seed", "train loss before", "and after the switch", "barrier, train loss",
        "barrier, test loss", "barrier, train error", "rise beyond LB", "rise beyond SB", "‖SB − LB‖",
    )  # fmt: skip
    caption = (
        "The switch and the straight line by seed, losses in nats. Before and after the switch: the largest of as "
        "many records, which are a tenth of a part. Barrier: the largest excess of the loss between LB and SB over "
        "the chord, and of the error over the mean of both ends. Rise: mean training loss up to one distance beyond "
        "an end, less that at the end."
    )
    ends = [
        table_by(own, BATCH, PERFORMANCE, f"End points of Part I and Part II of {steps:,} steps each. Losses in nats.")
        for steps, own in by_steps(runs).items()
    ]
    return [*ends, Table(caption, header, tuple(rows))]


def _some(runs: Sequence[Run]) -> dict[int, Parts]:
    """`parts_by_seed`, or an InputError where no seed has finished both parts."""
    parts = parts_by_seed(runs)
    if not parts:
        raise InputError("no seed has finished both parts; run them first")
    return parts


def _sizes(parts: dict[int, Parts]) -> tuple[int, int]:
    """The two batch sizes."""
    first = parts[min(parts)]
    return first.large.setting(BATCH), first.small.setting(BATCH)


def jumps(runs: Sequence[Run]) -> Evidence:
    """Are both losses higher and both accuracies lower just after the switch than just before it?"""
    parts = parts_by_seed(published(runs))
    second = [pair.small for pair in parts.values()]

    def factor(run: Run, split: str) -> float:
        before, after = jump(parts[run.seed], f"{split}_loss")
        return math.log(after / before)

    def drop(run: Run, split: str) -> float:
        before, after = jump(parts[run.seed], f"{split}_accuracy")
        return before - after

    evidence = all_hold(
        *(
            limits.exceeds(
                second,
                partial(factor, split=split),
                0.0,
                f"ln of {split} loss, worst tenth after over before the switch,",
                least=LN_FACTOR,
            )
            for split in SPLITS
        ),
        *(
            limits.exceeds(
                second,
                partial(drop, split=split),
                0.0,
                f"drop of {split} accuracy, worst tenth after from before,",
                least=POINT,
            )
            for split in SPLITS
        ),
    )
    if not parts:
        return evidence
    pairs = [jump(pair, "train_loss") for pair in parts.values()]
    own = sum(before >= after for before, after in pairs)
    addition = (
        f"; in {own} of {len(pairs)} seeds the last tenth of Part I itself has a training loss as high as that after "
        "the switch"
    )
    return evidence._replace(explanation=evidence.explanation + addition)


def small_batches_generalise_better(runs: Sequence[Run]) -> Evidence:
    """Is the test accuracy higher at the end of Part II than at the end of Part I?"""
    runs = published(runs)
    parts = parts_by_seed(runs)
    both = [run for pair in parts.values() for run in pair]
    return claims.compare(both, "test_accuracy", BATCH, claims.LARGEST, claims.SMALLEST, "larger", "difference")


def no_barrier(runs: Sequence[Run]) -> Evidence:
    """Are the barriers in training loss, over ln 10, and in training error on the line between both ends below 0.02?"""
    parts = parts_by_seed(runs)
    second = [pair.small for pair in parts.values()]
    evidence = all_hold(
        limits.falls_below(
            second, loss_barrier, 0.02, "training loss above the chord over ln 10, at most on the segment,", "log"
        ),
        limits.falls_below(
            second,
            lambda run: error_barrier(run.spectrum("line")),
            0.02,
            "training error above the mean of the ends, at most on the segment,",
            "log",
        ),
    )
    if not parts:
        return evidence
    before, after = zip(*(jump(pair, "train_loss") for pair in parts.values()), strict=True)
    addition = (
        f"; the largest train loss is {number(min(before), 2)} to {number(max(before), 2)} nats before the switch and "
        f"{number(min(after), 2)} to {number(max(after), 2)} after it; a guess has {number(GUESS, 3)}"
    )
    return evidence._replace(explanation=evidence.explanation + addition)


def _at_lower_loss(evidence: Evidence) -> Evidence:
    """The evidence of parts with more steps, whose rule says so."""
    return evidence._replace(rule=f"{evidence.rule}; of parts of more steps")


def large_batches_are_sharper(runs: Sequence[Run]) -> Evidence:
    """Does the loss rise more beyond the end of Part I than beyond the end of Part II on the line between them?"""
    second = [run for run in published(runs) if is_second(run)]
    return limits.exceeds(
        second,
        lambda run: asymmetry(run.spectrum("line")),
        0.0,
        "(rise beyond LB − rise beyond SB) / their sum, mean training loss up to one distance beyond each,",
        least=(FACTOR - 1) / (FACTOR + 1),
    )


EXPERIMENT = Experiment(
    id="s_basin",
    paper="S",
    question="Training goes on in small batches from a solution of large batches: are both solutions in one basin?",
    config="s_basin",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="jump-at-the-switch",
            paper="S",
            where="§4.1, figure 8",
            statement="right after the switch to small batches both losses jump and both accuracies drop",
            paper_value="a figure without numbers",
            decide=jumps,
        ),
        Claim(
            id="small-batches-better",
            paper="S",
            where="§4.1, figure 8",
            statement="the solution of small batches has the better test accuracy",
            paper_value="about 1 % better",
            paper_effect=0.01,
            decide=small_batches_generalise_better,
        ),
        Claim(
            id="no-barrier",
            paper="S",
            where="§4.1, figure 9",
            statement="there is no barrier on the straight line between the two solutions",
            paper_value="a figure without numbers",
            decide=lambda runs: no_barrier(published(runs)),
        ),
        Claim(
            id="large-batches-sharper",
            paper="S",
            where="§4.1, figure 9",
            statement="the loss rises faster beyond the solution of large batches than beyond that of small ones",
            paper_value="a figure without numbers",
            decide=large_batches_are_sharper,
        ),
        Claim(
            id="no-barrier-at-lower-loss",
            paper="hessflat",
            where="beyond the paper",
            statement="there is also no barrier if Part I trains on, to a far lower loss, before the switch",
            paper_value="not in the paper",
            decide=lambda runs: _at_lower_loss(no_barrier(longer(runs))),
        ),
    ),
    notes=(
        "The paper gives neither the learning rate nor the sizes of its AlexNet; the configuration says what is taken."
    ),
    tuned=(
        Tuned(
            "small",
            (0, 1, 2, 3, 4),
            "network, rate and numbers of steps, the first few tried at which the switch shows,",
        ),
    ),
)
