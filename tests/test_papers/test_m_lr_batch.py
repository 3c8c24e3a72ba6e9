"""What claims on rates and batch sizes say of runs that did not reach the loss to stop at."""

from pathlib import Path

from experiments.macdonald2023.m_lr_batch import on_reached
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.results import Run


def test_runs_that_missed_the_loss_are_counted_in_a_clause():
    reasons = ("the loss, 0.009, below 0.01", None)
    runs = [Run(Path(f"run-{seed}"), {}, {"status": "done", "reason": why}, []) for seed, why in enumerate(reasons)]
    seen = []

    def decide(own):
        seen.append(len(own))
        return Evidence("", "", len(own), "undecided", "no order", rule="a rule")

    said = on_reached(decide, runs).explanation
    assert said == "no order; 1 of 2 runs did not reach the loss to stop at and are left out"
    assert on_reached(decide, runs[:1]).explanation == "no order"
    assert seen == [1, 1]
