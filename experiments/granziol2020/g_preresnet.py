"""Does L2 sharpen a pre-activation residual network? *Flatness is a False Friend*, section 4, figure 5."""

from functools import partial

from experiments.granziol2020.weight_decay import (
    BATCH_NORM_CLAIMS,
    SHARED_CLAIMS,
    draw,
    generalises_better,
    grows_with_l2,
    interpolates,
    sharper_generalises_better,
    tabulate,
)
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Experiment

EXPERIMENT = Experiment(
    id="g_preresnet",
    paper="G",
    question="PreResNet: does L2 improve generalisation and yet sharpen the solution?",
    config="g_preresnet",
    regularisers=("optim.l2",),
    draw=draw,
    tabulate=tabulate,
    claims=(
        generalises_better(
            where="§4, fig. 5", paper_value="validation accuracy 73.12 → 77.36 %", paper_effect=0.7736 - 0.7312
        ),
        interpolates(where="§4, fig. 5", paper_value="training accuracy 99.99 % without, 99.89 % with L2"),
        Claim(
            id="lower-train-accuracy",
            paper="G",
            where="§4, fig. 5",
            statement="L2 lowers training accuracy",
            paper_value="99.99 → 99.89 %",
            paper_effect=0.9989 - 0.9999,
            decide=partial(claims.compare, metric="train_accuracy", scale="difference", expect="smaller"),
        ),
        grows_with_l2(
            id="spectral-norm",
            where="§4, fig. 5",
            what="the spectral norm",
            metric="hessian.lambda_max",
            paper_value="a figure without numbers",
        ),
        grows_with_l2(
            id="second-moment",
            where="§4, fig. 5",
            what="the second moment (the paper's Frobenius norm)",
            metric="hessian.second_moment",
            paper_value="5e-5 → 3e-3",
            paper_effect=3e-3 / 5e-5,
        ),
        sharper_generalises_better(
            where="§4, fig. 5", paper_value="77.36 against 73.12 % with second moment 3e-3 against 5e-5"
        ),
        *BATCH_NORM_CLAIMS,
        *SHARED_CLAIMS,
    ),
    notes=(
        "The paper does not say which mode of batch norm figure 5 is in. We decide its claims in train mode, like "
        "those of figure 6."
    ),
)
