"""Are the better solutions of an adaptive optimiser sharper? *Flatness is a False Friend*, §5, figs. 8-10."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from experiments.granziol2020 import weight_decay
from experiments.granziol2020.weight_decay import scaled_sharpness_claims
from hessflat.analysis import claims, limits
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.results import Run, by_setting

# The paper's second data set. The first is CIFAR-100, for which digits stand in at the small scales, and the second
# itself at scale medium.
SECOND = "cifar10"


def on_data_set(runs: Sequence[Run], second: bool) -> list[Run]:
    """The runs of the second data set where `second`, else those of the first or of what stands in for it."""
    own = [run for run in runs if (run.setting("data.name") == SECOND) == second]
    return own if own or second else list(runs)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Spectra, flatness, generalisation and training by optimiser, for each data set."""
    return [
        drawing._replace(
            name=f"{drawing.name}-{data}",
            caption=f"{drawing.caption} Gadam is the optimiser called adamw, measured at the mean of its iterates.",
        )
        for data, group in by_setting(runs, "data.name").items()
        for drawing in weight_decay.draw(group, "optim.name")
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Performance, curvature and degeneracy by optimiser, for each data set."""
    return [
        table._replace(caption=f"{data}: {table.caption}")
        for data, group in by_setting(runs, "data.name").items()
        for table in weight_decay.tabulate(group, "optim.name")
    ]


def on(second: bool, rule: Callable[..., Evidence], **settings: Any) -> Callable[[Sequence[Run]], Evidence]:
    """The rule that compares Gadam with SGD on the runs of one data set: the second where `second`, else the first."""

    def decide(runs: Sequence[Run]) -> Evidence:
        evidence = rule(on_data_set(runs, second), by="optim.name", low="sgd", high="adamw", **settings)
        return evidence._replace(rule=f"{evidence.rule}; on {SECOND}") if second else evidence

    return decide


def larger(
    *,
    id: str,
    where: str,
    what: str,
    metric: str,
    paper_value: str,
    paper_effect: float | None = None,
    second: bool = False,
    scale: str = "ratio",
) -> Claim:
    """A claim that a metric, named `what`, is larger for Gadam than for SGD."""
    statement = f"{what} of Gadam's solution is larger than that of SGD's"
    return Claim(
        id=id,
        paper="G",
        where=where,
        statement=statement,
        paper_value=paper_value,
        decide=on(second, claims.compare, metric=metric, scale=scale),
        paper_effect=paper_effect,
    )


def on_first(decide: Callable[[Sequence[Run]], Evidence]) -> Callable[[Sequence[Run]], Evidence]:
    """The rule `decide` restricted to the runs of the first data set."""
    return lambda runs: decide(on_data_set(runs, second=False))


def training_errors(run: Run) -> float:
    """The share of training examples that are wrong at the end."""
    return run.final("train_error")


EXPERIMENT = Experiment(
    id="g_gadam",
    paper="G",
    question="VGG: does Gadam generalise better than SGD, and is its solution the sharper one?",
    config="g_gadam",
    draw=draw,
    tabulate=tabulate,
    claims=(
        larger(
            id="accuracy",
            where="§5, fig. 8",
            what="the accuracy",
            metric="test_accuracy",
            paper_value="a figure without numbers",
            scale="difference",
        ),
        Claim(
            id="train-accuracy",
            paper="G",
            where="§5, fig. 8",
            statement="both give similar training performance",
            paper_value="training accuracy 99.81 % with Gadam, 99.64 % with SGD",
            decide=partial(limits.falls_below, statistic=training_errors, limit=0.01, what="training error"),
        ),
        larger(
            id="spectral-norm",
            where="§5, fig. 8",
            what="the spectral norm",
            metric="hessian.lambda_max",
            paper_value="almost 40 times (abstract: 30)",
            paper_effect=40,
        ),
        larger(
            id="spectral-norm-eval",
            where="§5, fig. 10",
            what="in batch norm's eval mode the spectral norm",
            metric="hessian_eval.lambda_max",
            paper_value="35 times",
            paper_effect=35,
        ),
        larger(
            id="second-moment",
            where="§5, fig. 8",
            what="the second moment",
            metric="hessian.second_moment",
            paper_value="0.02 against 1e-4",
            paper_effect=0.02 / 1e-4,
        ),
        larger(
            id="second-moment-eval",
            where="§5, fig. 10",
            what="in batch norm's eval mode the second moment",
            metric="hessian_eval.second_moment",
            paper_value="0.04 against 1.3e-5",
            paper_effect=0.04 / 1.3e-5,
        ),
        larger(
            id="more-extreme-in-eval-mode",
            where="contributions; §5, figs. 8, 10",
            what="the spectral norm in batch norm's eval mode, over that in train mode,",
            metric="hessian.eval_over_train_lambda_max",
            paper_value="called more extreme in eval mode, although 35 is less than almost 40",
            paper_effect=35 / 40,
        ),
        larger(
            id="moment-more-extreme-in-eval-mode",
            where="contributions; §5, figs. 8, 10",
            what="the second moment in batch norm's eval mode, over that in train mode,",
            metric="hessian.eval_over_train_second_moment",
            paper_value="0.04 against 1.3e-5 in eval mode, 0.02 against 1e-4 in train mode: 15 times as much",
            paper_effect=(0.04 / 1.3e-5) / (0.02 / 1e-4),
        ),
        Claim(
            id="sharper-and-better",
            paper="G",
            where="§5, figs. 8, 10",
            statement="the solution that generalises better is the sharper one, in both modes of batch norm",
            paper_value="almost 40 and 35 times sharper",
            decide=lambda runs: all_hold(
                *(
                    on(False, claims.of_the_better, metric=f"{operator}.lambda_max")(runs)
                    for operator in ("hessian", "hessian_eval")
                )
            ),
        ),
        larger(
            id="cifar10-accuracy",
            where="§5, fig. 9",
            what="on CIFAR-10 the accuracy",
            metric="test_accuracy",
            paper_value="a smaller gain than on CIFAR-100",
            second=True,
            scale="difference",
        ),
        larger(
            id="cifar10-moment",
            where="§5, fig. 9",
            what="on CIFAR-10 the second moment",
            metric="hessian.second_moment",
            paper_value="1.55e-3 against 1.43e-5",
            paper_effect=1.55e-3 / 1.43e-5,
            second=True,
        ),
        larger(
            id="cifar10-moment-eval",
            where="§5",
            what="on CIFAR-10, in batch norm's eval mode, the second moment",
            metric="hessian_eval.second_moment",
            paper_value="0.012 against 7.7e-7",
            paper_effect=0.012 / 7.7e-7,
            second=True,
        ),
        *(
            replace(claim, decide=on_first(claim.decide))
            for claim in scaled_sharpness_claims(by="optim.name", low="sgd", high="adamw")
        ),
    ),
    notes=(
        "The two optimisers also differ in learning rate, decay, its coupling, schedule and averaging. The paper "
        "compares their tuned solutions. At scale small both are tuned on other seeds."
    ),
)
