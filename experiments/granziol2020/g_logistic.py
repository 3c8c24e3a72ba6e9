"""Does L2 sharpen softmax regression? *Flatness is a False Friend*, section 4, figure 2."""

from functools import partial

from experiments.granziol2020.weight_decay import SHARED_CLAIMS, draw, generalises_better, tabulate
from hessflat.analysis import claims, limits
from hessflat.analysis.experiment import Claim, Experiment, Tuned, seeds_added

EXPERIMENT = Experiment(
    id="g_logistic",
    paper="G",
    question="Softmax regression: does L2 improve generalisation and yet sharpen the solution?",
    config="g_logistic",
    regularisers=("optim.l2",),
    draw=draw,
    tabulate=tabulate,
    claims=(
        generalises_better(
            where="§4, fig. 2",
            paper_value="validation accuracy 93.48 → 94.08 % at L2 = 5e-4",
            paper_effect=0.9408 - 0.9348,
        ),
        Claim(
            id="spectral-norm",
            paper="G",
            where="§4, fig. 2",
            statement="the spectral norm grows with L2",
            paper_value="12.26, 14.17, 15.84 at L2 = 0, 1e-4, 5e-4",
            paper_effect=15.84 / 12.26,
            decide=partial(claims.increases, metric="hessian.lambda_max"),
        ),
        Claim(
            id="mean-eigenvalue",
            paper="G",
            where="§4, fig. 2",
            statement="the mean eigenvalue grows with L2",
            paper_value="0.0132, 0.0153, 0.0171 at L2 = 0, 1e-4, 5e-4",
            paper_effect=0.0171 / 0.0132,
            decide=partial(claims.increases, metric="hessian.mean_eigenvalue"),
        ),
        Claim(
            id="sharper-and-better",
            paper="G",
            where="title, §4",
            statement="the solution that generalises better is the sharper one",
            paper_value="94.08 against 93.48 % with λ₁ 15.84 against 12.26",
            paper_effect=15.84 / 12.26,
            decide=partial(claims.of_the_better, metric="hessian.lambda_max"),
        ),
        Claim(
            id="gauss-newton-is-hessian",
            paper="hessflat",
            where="PSD by §4's diagonal dominance",
            statement="the Gauss-Newton matrix of a model that is linear in its parameters is the Hessian",
            paper_value="exact",
            decide=partial(limits.agrees, metric="gauss_newton.lambda_max", other="hessian.lambda_max", within=1e-3),
        ),
        *SHARED_CLAIMS,
    ),
    notes="The paper does not say how pixels are scaled; g_logistic_scaling tries the candidates.",
    tuned=(
        Tuned("paper", (0, 1, 2, 10, 11, 12), "the scaling of the pixels and the split, which all seeds share,"),
        seeds_added("small", 3),
    ),
)
