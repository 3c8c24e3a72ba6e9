"""Which runs learnt and which fitted; the others are left out of rules and tables, and counted."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from fabricated_runs import write_run

from hessflat.analysis.experiment import Claim, Experiment, StoredExperiment, Table
from hessflat.analysis.limits import exceeds
from hessflat.analysis.results import load_run, meeting
from hessflat.report.claims import read_claims
from hessflat.report.sections import judge, make_section
from hessflat.training.optimisation import loss_of_best_guess

STORED = Path(__file__).parents[2] / "docs" / "results"
AT_CHANCE = {"train_loss": 2.2, "train_accuracy": 0.1}


@pytest.fixture
def runs(tmp_path):
    """Two seeds that fit, one that learnt, one at chance, one that diverged."""
    final = ({}, {}, {"train_accuracy": 0.9}, AT_CHANCE, {})
    status = ("done",) * 4 + ("diverged",)
    return [
        load_run(write_run(tmp_path, seed=i, spectra=False, final=f, status=s, best_guess_loss=math.log(10)))
        for i, (f, s) in enumerate(zip(final, status, strict=True))
    ]


def test_a_run_is_compared_with_the_best_constant_outputs(runs):
    assert [run.learnt for run in runs] == [True, True, True, False, True]
    assert [run.fitted for run in runs] == [True, True, False, False, True]
    assert [len(meeting(runs, needs)) for needs in ("finished", "learnt", "fitted")] == [5, 4, 3]
    assert not runs[0]._replace(manifest={**runs[0].manifest, "best_guess_loss": 0.1}).learnt
    assert runs[3]._replace(manifest={**runs[3].manifest, "best_guess_loss": None}).learnt
    assert runs[2]._replace(manifest={**runs[2].manifest, "reason": "below its loss"}).fitted


def test_the_best_constant_outputs_are_frequencies_and_means():
    labels = np.array([0, 0, 0, 1, 2, 2], np.int32)
    share = np.array([3, 1, 2]) / 6
    assert float(loss_of_best_guess("cross_entropy", labels, 4)) == pytest.approx(-(share * np.log(share)).sum())
    targets = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert float(loss_of_best_guess("squared_error", targets, 3)) == pytest.approx(targets.var(axis=0).mean(), rel=1e-5)
    assert math.isnan(loss_of_best_guess("exponential", targets, 3))


def asking(needs=None):
    def decide(runs):
        return exceeds(runs, lambda run: run.final("train_accuracy"), 0.0, "accuracy", least=0.5)

    claim = Claim(id="a", paper="G", where="", statement="s", paper_value="", decide=decide, needs=needs)
    return Experiment("toy", "G", "?", "c", lambda runs: [], lambda runs: [Table(f"{len(runs)}.", (), ())], (claim,))


@pytest.mark.parametrize(
    ("needs", "seeds", "says"),
    [
        (None, 3, "1 of 4 finished runs at chance are left out"),
        ("fitted", 2, "2 of 4 finished runs that did not fit the training data are left out"),
        ("finished", 4, None),
    ],
)
def test_a_claim_rests_on_what_it_needs_and_says_what_is_left_out(runs, needs, seeds, says):
    (record,) = judge(StoredExperiment(asking(needs), "small", runs))
    assert record["seeds"] == seeds
    assert len([path for path in record["runs"] if "seed=4" not in path]) == seeds
    assert (says in record["explanation"]) if says else "at chance" not in record["explanation"]
    assert "(diverged)" in record["explanation"]


def test_where_no_run_learnt_nothing_is_decided(runs):
    (record,) = judge(StoredExperiment(asking(), "small", [runs[3]]))
    assert (record["verdict"], record["explanation"]) == ("undecided", "1 of 1 finished runs at chance are left out")


def test_a_table_says_what_it_leaves_out(runs):
    (table,) = make_section(StoredExperiment(asking(), "small", runs)).tables
    assert table.caption == "4. 1 of 4 finished runs at chance are left out."


@pytest.mark.slow
def test_no_stored_claim_rests_on_a_run_at_chance(stored_runs):
    records = read_claims(STORED / "report" / "claims.json")
    learnt = {}
    for record in records:
        for path in record["runs"]:
            folder = stored_runs.parent / path
            if folder not in learnt:
                manifest = json.loads((folder / "manifest.json").read_text())
                last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
                guess, loss = manifest["best_guess_loss"], last.get("train_loss")
                learnt[folder] = guess is None or loss is None or loss < 0.9 * guess
            # One experiment has weights that are zero, by design.
            assert learnt[folder] or record["experiment"] == "s_random_matrix", (record["claim"], path)
    assert sum(not one for one in learnt.values()) == 10 * 8  # its settings whose weights are zero, and its seeds
