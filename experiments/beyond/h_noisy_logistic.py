"""Does L2 sharpen softmax regression where a fifth of the labels are wrong? *Flatness is a False Friend*, section 4."""

from experiments.granziol2020 import g_logistic
from hessflat.analysis.experiment import Tuned

EXPERIMENT = g_logistic.EXPERIMENT._replace(
    id="h_noisy_logistic",
    config="h_noisy_logistic",
    question="Softmax regression, a fifth of the labels wrong: is the better solution, with L2, the sharper one?",
    # Sizes, the share of noise and the values of L2 were tried on other seeds than those that are compared.
    tuned=(Tuned("small", (0, 1, 2), "sizes, noise and L2"),),
    notes=(
        "A departure: the paper's data is clean. Labels of every split are drawn anew with a probability of 0.2, and "
        "the split with each seed."
    ),
)
