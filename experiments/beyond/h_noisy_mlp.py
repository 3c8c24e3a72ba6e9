"""Does L2 sharpen a perceptron whose labels are noisy? *Flatness is a False Friend*, section 4."""

from dataclasses import replace

from experiments.granziol2020 import g_mlp
from hessflat.analysis.experiment import Tuned

EXPERIMENT = g_mlp.EXPERIMENT._replace(
    id="h_noisy_mlp",
    paper="hessflat",
    config="h_noisy_mlp",
    question="A perceptron, a fifth of the labels drawn anew: is the better solution, with L2, the sharper one?",
    # G's numbers are of clean labels.
    claims=tuple(replace(claim, paper="hessflat", paper_effect=None) for claim in g_mlp.EXPERIMENT.claims),
    tuned=(Tuned("small", (0, 1, 2), "sizes, noise and L2"),),
    notes=(
        "A departure: the paper's data is clean. Labels of every split, training and test, are drawn anew with a "
        "probability of 0.2, and the split with each seed; losses and accuracies are of these labels."
    ),
)
