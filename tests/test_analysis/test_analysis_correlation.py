"""Kendall's tau of measures with the generalisation gap, and its bootstrap interval."""

import numpy as np
import pytest
from fabricated_runs import write_run, write_sweep
from scipy import stats

from hessflat.analysis.correlation import correlation, correlation_table
from hessflat.analysis.experiment import Experiment
from hessflat.analysis.names import metric_name
from hessflat.analysis.results import load_run


def asking(regulariser):
    return Experiment("toy", "G", "?", "configs/toy.py", lambda runs: [], lambda runs: [], (), regulariser=regulariser)


def test_it_agrees_with_scipy_and_lies_in_its_interval(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, spectra=False)]
    found = correlation(runs, "hessian.lambda_max")
    x, y = ([run.final(name) for run in runs] for name in ("hessian.lambda_max", "gap_loss"))
    assert found.tau == pytest.approx(stats.kendalltau(x, y).statistic)
    # L2 sharpens these runs and closes their gap, without exception between settings.
    assert -1 <= found.low <= found.tau <= found.high < 0
    assert found.runs == 9


def test_the_interval_covers_no_correlation_as_often_as_it_says(tmp_path):
    """Over many samples of runs whose measure and gap have nothing to do with one another."""
    generator, covered = np.random.default_rng(1), 0
    run = load_run(write_run(tmp_path, spectra=False))
    for _ in range(40):
        lines = generator.standard_normal((16, 2))
        runs = [run._replace(metrics=[{"step": 1, "a": float(a), "gap_loss": float(b)}]) for a, b in lines]
        found = correlation(runs, "a")
        covered += found.low <= 0 <= found.high
    assert 34 <= covered <= 40


def test_a_table_has_a_column_for_each_experiment_that_varies_a_regulariser(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, spectra=False)]
    few = runs[:3]
    entries = [(asking("optim.l2"), "small", runs), (asking(""), "paper", runs), (asking("optim.l2"), "smoke", few)]
    table = correlation_table(entries)
    assert table.header == ("measure", "toy (L2), small")
    rows = dict(table.rows)
    found = correlation(runs, "hessian.lambda_max")
    assert rows["λ_max(H)"] == f"{found.tau:+.2f}* [{found.low:+.2f}, {found.high:+.2f}]"
    assert metric_name("hessian.adaptive_lambda_max") not in rows
    assert rows["runs"] == "9"
    assert correlation_table(entries[1:]) is None
