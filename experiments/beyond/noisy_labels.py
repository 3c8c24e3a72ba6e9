"""The experiments of *Flatness is a False Friend* with a fifth of the labels drawn anew."""

from dataclasses import replace

from hessflat.analysis.experiment import Experiment, Tuned


def with_noisy_labels(experiment: Experiment, id: str, model: str) -> Experiment:
    """The experiment on other runs, of the `model` named in its question; the paper's sizes are of clean labels."""
    return experiment._replace(
        id=id,
        paper="hessflat",
        config=id,
        question=(
            f"{model} with a fifth of the labels drawn anew: does L2 improve generalisation and yet sharpen the "
            "solution?"
        ),
        claims=tuple(replace(claim, paper="hessflat", paper_effect=None) for claim in experiment.claims),
        tuned=(Tuned("small", (0, 1, 2), "sizes, noise and L2"),),
        notes=(
            "A departure: the paper's data is clean. Here the labels of every split, training and test, are drawn "
            "anew with probability 0.2. The split differs by seed. Losses and accuracies are on these labels."
        ),
    )
