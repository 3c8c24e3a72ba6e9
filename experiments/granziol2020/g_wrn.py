"""Does L2 sharpen a wide residual network, in either mode of batch norm? *Flatness is a False Friend*, figs. 6, 7."""

from experiments.granziol2020._weight_decay import (
    BATCH_NORM_CLAIMS,
    SHARED_CLAIMS,
    better,
    draw,
    learnt_by_heart,
    sharper,
    sharper_and_better,
    tabulate,
)
from hessflat.analysis.experiment import Experiment

EXPERIMENT = Experiment(
    id="g_wrn",
    paper="G",
    question="WideResNet: is the solution with L2, which generalises better, the sharper one in both batch-norm modes?",
    config="g_wrn",
    regularisers=("optim.l2",),
    draw=draw,
    tabulate=tabulate,
    claims=(
        better("§4, fig. 6", "validation accuracy higher by more than 5 points"),
        learnt_by_heart("§4, fig. 6", "training accuracy > 99.995 % without, > 99.99 % with L2"),
        sharper("spectral-norm", "§4, fig. 6", "the spectral norm", "hessian.lambda_max", "almost 30 times larger"),
        sharper(
            "spectral-norm-eval",
            "§4, fig. 7",
            "in batch norm's eval mode the spectral norm",
            "hessian_eval.lambda_max",
            "nearly 1000 times larger",
        ),
        sharper(
            "second-moment",
            "§4, fig. 6",
            "the second moment (the paper's Frobenius norm)",
            "hessian.second_moment",
            "2.3e-7 → 1e-4",
        ),
        sharper(
            "second-moment-eval",
            "§4, fig. 7",
            "in batch norm's eval mode the second moment",
            "hessian_eval.second_moment",
            "9.8e-12 → 4.9e-5",
        ),
        sharper_and_better("§4, fig. 6", "almost 30 times sharper, more than 5 points better"),
        sharper_and_better("§4, fig. 7", "nearly 1000 times sharper, more than 5 points better", "hessian_eval"),
        *BATCH_NORM_CLAIMS,
        *SHARED_CLAIMS,
    ),
    notes="The paper does not give the values of L2 that its figures 4 to 7 compare.",
)
