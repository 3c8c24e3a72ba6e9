"""What the experiments of *Flatness is a False Friend* become where a fifth of the labels are drawn anew."""

from dataclasses import replace

from hessflat.analysis.experiment import Experiment, Tuned


def with_noisy_labels(experiment: Experiment, id: str, model: str) -> Experiment:
    """The experiment on other runs, of the `model` named in its question; the paper's sizes are of clean labels."""
    return experiment._replace(
        id=id,
        paper="hessflat",
        config=id,
        question=f"{model}, a fifth of the labels drawn anew: is the better solution, with L2, the sharper one?",
        claims=tuple(replace(claim, paper="hessflat", paper_effect=None) for claim in experiment.claims),
        tuned=(Tuned("small", (0, 1, 2), "sizes, noise and L2"),),
        notes=(
            "A departure: the paper's data is clean. Labels of every split, training and test, are drawn anew with a "
            "probability of 0.2, and the split with each seed; losses and accuracies are of these labels."
        ),
    )
