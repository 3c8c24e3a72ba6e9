"""Does L2 sharpen a wide residual network, in either mode of batch norm? *Flatness is a False Friend*, figs. 6, 7."""

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
    id="g_wrn",
    paper="G",
    question="WideResNet: does L2 improve generalisation and yet sharpen the solution, in both modes of batch norm?",
    config="g_wrn",
    regularisers=("optim.l2",),
    draw=draw,
    tabulate=tabulate,
    claims=(
        generalises_better(
            where="§4, fig. 6", paper_value="validation accuracy higher by more than 5 points", paper_effect=0.05
        ),
        Claim(
            id="test-loss",
            paper="G",
            where="§4, fig. 6",
            statement="the solution with L2 also has the smaller test loss",
            paper_value="worse without L2 in test accuracy and test loss; no numbers of the loss",
            decide=partial(claims.compare, metric="test_loss", expect="smaller"),
        ),
        interpolates(where="§4, fig. 6", paper_value="training accuracy > 99.995 % without, > 99.99 % with L2"),
        grows_with_l2(
            id="spectral-norm",
            where="§4, fig. 6",
            what="the spectral norm",
            metric="hessian.lambda_max",
            paper_value="almost 30 times larger",
            paper_effect=30,
        ),
        grows_with_l2(
            id="spectral-norm-eval",
            where="§4, fig. 7",
            what="in batch norm's eval mode the spectral norm",
            metric="hessian_eval.lambda_max",
            paper_value="nearly 1000 times larger",
            paper_effect=1000,
        ),
        grows_with_l2(
            id="second-moment",
            where="§4, fig. 6",
            what="the second moment (the paper's Frobenius norm)",
            metric="hessian.second_moment",
            paper_value="2.3e-7 → 1e-4",
            paper_effect=1e-4 / 2.3e-7,
        ),
        grows_with_l2(
            id="second-moment-eval",
            where="§4, fig. 7",
            what="in batch norm's eval mode the second moment",
            metric="hessian_eval.second_moment",
            paper_value="9.8e-12 → 4.9e-5",
            paper_effect=4.9e-5 / 9.8e-12,
        ),
        sharper_generalises_better(
            where="§4, fig. 6", paper_value="almost 30 times sharper, more than 5 points better", paper_effect=30
        ),
        sharper_generalises_better(
            where="§4, fig. 7",
            paper_value="nearly 1000 times sharper, more than 5 points better",
            paper_effect=1000,
            operator="hessian_eval",
        ),
        *BATCH_NORM_CLAIMS,
        *SHARED_CLAIMS,
    ),
    notes="The paper does not give the values of L2 that its figures 4 to 7 compare.",
)
