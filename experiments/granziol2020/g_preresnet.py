"""Does L2 sharpen a residual network that normalises first? *Flatness is a False Friend*, section 4, figure 5."""

from functools import partial

from experiments.granziol2020._weight_decay import (
    BATCH_NORM_CLAIMS,
    COMPARED,
    SHARED_CLAIMS,
    better,
    draw,
    learnt_by_heart,
    sharper,
    sharper_and_better,
    tabulate,
)
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Experiment

EXPERIMENT = Experiment(
    id="g_preresnet",
    paper="G",
    question="PreResNet: is the solution with L2, which generalises better, the sharper one?",
    config="g_preresnet",
    regularisers=("optim.l2",),
    draw=draw,
    tabulate=tabulate,
    claims=(
        better("§4, fig. 5", "validation accuracy 73.12 → 77.36 %"),
        learnt_by_heart("§4, fig. 5", "training accuracy 99.99 % without, 99.89 % with L2"),
        Claim(
            "lower-train-accuracy",
            "G",
            "§4, fig. 5",
            "L2 lowers training accuracy",
            "99.99 → 99.89 %",
            f"training accuracy, {COMPARED}: difference below 0",
            partial(claims.compare, metric="train_accuracy", scale="difference", expect="smaller"),
        ),
        sharper("spectral-norm", "§4, fig. 5", "the spectral norm", "hessian.lambda_max", "a figure without numbers"),
        sharper(
            "second-moment",
            "§4, fig. 5",
            "the second moment (the paper's Frobenius norm)",
            "hessian.second_moment",
            "5e-5 → 3e-3",
        ),
        sharper_and_better("§4, fig. 5", "77.36 against 73.12 % with second moment 3e-3 against 5e-5"),
        *BATCH_NORM_CLAIMS,
        *SHARED_CLAIMS,
    ),
    notes=(
        "The paper does not say which mode of batch norm figure 5 is in; its claims are decided in train mode, as "
        "those of figure 6."
    ),
)
