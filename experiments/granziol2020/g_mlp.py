"""Does L2 sharpen a perceptron with one hidden layer? *Flatness is a False Friend*, section 4, figure 3."""

from functools import partial

from experiments.granziol2020.weight_decay import COMPARED, SHARED_CLAIMS, draw, tabulate
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Experiment

EXPERIMENT = Experiment(
    id="g_mlp",
    paper="G",
    question="One hidden layer: is the solution with L2, which generalises better, the sharper one?",
    config="g_mlp",
    regularisers=("optim.l2",),
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="accuracy",
            paper="G",
            where="§4, fig. 3",
            statement="L2 improves generalisation",
            paper_value="accuracy 94.4 → 96.7 %",
            rule=f"test accuracy, {COMPARED}: difference above 0",
            decide=partial(claims.compare, metric="test_accuracy", scale="difference"),
        ),
        Claim(
            id="train-accuracy",
            paper="G",
            where="§4, fig. 3",
            statement="L2 lowers training accuracy",
            paper_value="96.88 → 96.65 %",
            rule=f"training accuracy, {COMPARED}: difference below 0",
            decide=partial(claims.compare, metric="train_accuracy", scale="difference", expect="smaller"),
        ),
        Claim(
            id="spectral-norm",
            paper="G",
            where="§4, fig. 3",
            statement="the spectral norm grows with L2",
            paper_value="a figure without numbers",
            rule=f"λ_max(H), {COMPARED}: ratio above 1",
            decide=partial(claims.compare, metric="hessian.lambda_max"),
        ),
        Claim(
            id="second-moment",
            paper="G",
            where="§4, fig. 3",
            statement="the second moment (the paper's Frobenius norm) grows with L2",
            paper_value="0.12 → 0.16",
            rule=f"‖H‖_F² / P, {COMPARED}: ratio above 1",
            decide=partial(claims.compare, metric="hessian.second_moment"),
        ),
        Claim(
            id="sharper-and-better",
            paper="G",
            where="title, §4",
            statement="the solution that generalises better is the sharper one",
            paper_value="96.7 against 94.4 % with second moment 0.16 against 0.12",
            rule=f"λ_max(H) and test accuracy, {COMPARED}: both larger",
            decide=claims.sharper_and_better,
        ),
        *SHARED_CLAIMS,
    ),
    notes="The paper gives P = 9,960; 784-100-10 has 79,510 parameters and that network is what runs here.",
)
