"""Does L2 sharpen a perceptron with one hidden layer? *Flatness is a False Friend*, section 4, figure 3."""

from functools import partial

from experiments.granziol2020.weight_decay import (
    SHARED_CLAIMS,
    draw,
    generalises_better,
    grows_with_l2,
    tabulate,
)
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Experiment, seeds_added

EXPERIMENT = Experiment(
    id="g_mlp",
    paper="G",
    question="One hidden layer: does L2 improve generalisation and yet sharpen the solution?",
    config="g_mlp",
    regularisers=("optim.l2",),
    draw=draw,
    tabulate=tabulate,
    claims=(
        generalises_better(where="§4, fig. 3", paper_value="accuracy 94.4 → 96.7 %", paper_effect=0.967 - 0.944),
        Claim(
            id="train-accuracy",
            paper="G",
            where="§4, fig. 3",
            statement="L2 lowers training accuracy",
            paper_value="96.88 → 96.65 %",
            paper_effect=0.9665 - 0.9688,
            decide=partial(claims.compare, metric="train_accuracy", scale="difference", expect="smaller"),
        ),
        grows_with_l2(
            id="spectral-norm",
            where="§4, fig. 3",
            what="the spectral norm",
            metric="hessian.lambda_max",
            paper_value="a figure without numbers",
        ),
        Claim(
            id="second-moment",
            paper="G",
            where="§4, fig. 3",
            statement="the second moment (the paper's Frobenius norm) grows with L2",
            paper_value="0.12 → 0.16",
            paper_effect=0.16 / 0.12,
            decide=partial(claims.compare, metric="hessian.second_moment"),
        ),
        Claim(
            id="sharper-and-better",
            paper="G",
            where="title, §4",
            statement="the solution that generalises better is the sharper one",
            paper_value="96.7 against 94.4 % with second moment 0.16 against 0.12",
            decide=partial(claims.of_the_better, metric="hessian.lambda_max"),
        ),
        *SHARED_CLAIMS,
    ),
    notes=(
        "The paper gives P = 9,960, but its network, 784-100-10, has 79,510 parameters. We run the latter. g_mlp_size "
        "asks which of the two has the paper's second moment."
    ),
    tuned=tuple(seeds_added(scale, 3) for scale in ("small", "paper")),
)
