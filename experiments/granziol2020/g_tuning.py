"""What do the searches of rate and decay find for SGD and for Gadam? *Flatness is a False Friend*, app. A.1.

The rate is searched first, with a fixed decay, then the decay at that rate, both by validation accuracy. The decay
of SGD is given as its L2, that of Gadam as its decoupled decay times the rate.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hessflat.analysis import claims, strata
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Tuned
from hessflat.analysis.histories import series
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.report import figures

RATE, DECAY, OPTIMISER = "optim.lr", "optim.l2", "optim.name"
NAMES = {"sgd": "SGD", "adamw": "Gadam"}
# The decay at which rates are searched; the paper says that it is fixed, not which.
FIXED = 1e-4


def scaled_decay(run: Run) -> float:
    """L2 of SGD, and Gadam's decay times its rate."""
    decay = run.setting(DECAY)
    return round(decay if run.setting(OPTIMISER) == "sgd" else decay * run.setting(RATE), 10)


def of(optimiser: str, runs: Sequence[Run]) -> list[Run]:
    """The runs of one optimiser."""
    return [run for run in runs if run.setting(OPTIMISER) == optimiser]


def at_best_rate(optimiser: str, runs: Sequence[Run]) -> list[Run]:
    """The runs of an optimiser at the rate with the best validation accuracy at the fixed decay."""
    own = of(optimiser, runs)
    best = claims.best_setting([run for run in own if scaled_decay(run) == FIXED], RATE, claims.Best())
    return [run for run in own if run.setting(RATE) == best]


def tuned(optimiser: str, runs: Sequence[Run]) -> list[Run]:
    """The runs of an optimiser at that rate and, there, the decay with the best validation accuracy."""
    own = at_best_rate(optimiser, runs)
    best = claims.best_setting(own, DECAY, claims.Best())
    return [run for run in own if run.setting(DECAY) == best]


def loss_at_half(run: Run) -> float:
    """The training loss at half of the epochs, before the rate falls and iterates are averaged."""
    steps, values = series(run, "train_loss")
    return float(values[np.searchsorted(steps, steps[-1] / 2)])


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Accuracies, sharpness and the gap against the decay at each rate, for each optimiser."""
    panels = (("validation_accuracy",), ("test_accuracy",), ("hessian.lambda_max", "", "log"), ("gap_loss",))
    drawings = {
        name: figures.panels_against(own, DECAY, panels, f"searches-{name.lower()}", RATE)
        for optimiser, name in NAMES.items()
        if (own := of(optimiser, runs))
    }
    return [one._replace(caption=f"{name}. {one.caption}") for name, one in drawings.items()]


COLUMNS: dict[str, Callable[[Run], float]] = {
    "validation acc": lambda run: 100 * run.final("validation_accuracy"),
    "test acc": lambda run: 100 * run.final("test_accuracy"),
    "loss at half": loss_at_half,
    "train loss": lambda run: run.final("train_loss"),
    "gap (loss)": lambda run: run.final_or_nan("gap_loss"),
    "λ_max(H)": lambda run: run.final("hessian.lambda_max"),
    "max ‖J‖": lambda run: run.final_or_nan("jacobian.max"),
}


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Every pair that is searched, with a star at what the search finds."""
    rows = []
    for optimiser, name in NAMES.items():
        best = tuned(optimiser, finished(runs))
        for rate, at_rate in by_setting(of(optimiser, finished(runs)), RATE).items():
            for own in by_setting(at_rate, DECAY).values():
                means = [number(float(np.mean([one(run) for run in own]))) for one in COLUMNS.values()]
                star = "*" if own[0] in best else ""
                rows.append((name, number(rate), f"{number(scaled_decay(own[0]))}{star}", *means, str(len(own))))
    header = ("optimiser", "rate", "decay", *COLUMNS, "seeds")
    caption = (
        "The searches of app. A.1. Accuracies in per cent, losses in nats, means over seeds. The decay of Gadam is "
        "given times its rate. A star marks what the search finds: first the rate at a decay of 1e-4, then the decay."
    )
    return [Table(caption, header, tuple(rows))]


def at_tuned_rate(
    optimiser: str, rule: Callable[[Sequence[Run]], Evidence], runs: Sequence[Run]
) -> Evidence:  # fmt: skip
    """A rule on the runs of an optimiser at the rate that its search finds."""
    evidence = rule(at_best_rate(optimiser, runs))
    return evidence._replace(
        rule=f"{evidence.rule}; of {NAMES[optimiser]} at the rate with the best validation accuracy"
    )


def tuned_sharpness(runs: Sequence[Run]) -> Evidence:
    """Is λ_max of Gadam's tuned solution larger than that of SGD's?"""
    chosen = [run for optimiser in NAMES for run in tuned(optimiser, runs)]
    evidence = claims.compare(chosen, "hessian.lambda_max", OPTIMISER, "sgd", "adamw")
    return evidence._replace(rule=f"{evidence.rule}; each at the rate and the decay that its search finds")


def at_each_rate(optimiser: str, runs: Sequence[Run]) -> Evidence:
    """Is the solution that generalises better the sharper one at every rate of the search?"""
    groups = {f"rate {number(rate)}": own for rate, own in by_setting(of(optimiser, runs), RATE).items()}
    rule = partial(claims.of_the_better, metric="hessian.lambda_max")
    return strata.in_each_group(groups, rule, f"rate of {NAMES[optimiser]}")


def _claims_of(optimiser: str) -> tuple[Claim, ...]:
    name = NAMES[optimiser]
    said = "often a trade-off between convergence speed and final performance"
    return (
        Claim(
            id=f"{name.lower()}-slower",
            paper="G",
            where="app. A.1",
            statement=f"{name}: the more weight decay, the slower the convergence",
            paper_value=said,
            decide=partial(
                at_tuned_rate,
                optimiser,
                partial(claims.in_order, statistic=loss_at_half, what="training loss at half of the epochs", by=DECAY),
            ),
        ),
        Claim(
            id=f"{name.lower()}-better",
            paper="G",
            where="app. A.1",
            statement=f"{name}: weight decay improves the final performance",
            paper_value=said,
            decide=partial(
                at_tuned_rate, optimiser, partial(claims.compare, metric="test_accuracy", scale="difference")
            ),
        ),
        Claim(
            id=f"{name.lower()}-sharper-and-better",
            paper="G",
            where="title; app. A.1",
            statement=(
                f"{name}: at the rate that the search finds, the solution that generalises better is the sharper one"
            ),
            paper_value="compared at searched rates only",
            decide=partial(at_tuned_rate, optimiser, partial(claims.of_the_better, metric="hessian.lambda_max")),
        ),
        Claim(
            id=f"{name.lower()}-at-every-rate",
            paper="hessflat",
            where="app. A.1; title",
            statement=f"{name}: the solution that generalises better is the sharper one at every rate of the search",
            paper_value="not in the paper, which shows the best rate alone",
            decide=partial(at_each_rate, optimiser),
        ),
    )


EXPERIMENT = Experiment(
    id="g_tuning",
    paper="G",
    question=(
        "SGD and Gadam, tuned alike: does weight decay trade speed for performance, and which solution is sharper?"
    ),
    config="g_tuning",
    draw=draw,
    tabulate=tabulate,
    claims=(
        *_claims_of("sgd"),
        *_claims_of("adamw"),
        Claim(
            id="tuned-gadam-sharper",
            paper="G",
            where="§6; app. A.1",
            statement="tuned adaptive optimisers give sharper solutions than SGD tuned in the same way",
            paper_value="almost 40 times (§5)",
            decide=tuned_sharpness,
            paper_effect=40,
        ),
    ),
    notes=(
        "A departure: labels of every split are drawn anew with probability 0.2. On clean digits no decay changes the "
        "accuracy by enough for some hundred images to tell. The paper tunes large networks. We tune a perceptron, so "
        "that both optimisers can have each pair of the search with every seed. If the search finds a rate at which "
        "the noisy labels are not fitted, the argument of §3.1 does not apply, for it is on small losses."
    ),
    tuned=(Tuned("small", (20, 21, 22, 23), "the number of seeds and what is asked at the searched rate"),),
)
