"""Slopes that targets ask for beside Jacobian norms, from runs whose numbers are known."""

import pytest
from fabricated_runs import write_run

from experiments.macdonald2023 import m_lower_bound
from hessflat.analysis.results import load_run


def run_of(folder, bounds, norms):
    run = load_run(write_run(folder, spectra=False))
    metrics = [
        {"step": step, "epoch": float(step), m_lower_bound.BOUND: bound, m_lower_bound.JACOBIAN: norm}
        for step, (bound, norm) in enumerate(zip(bounds, norms, strict=True))
    ]
    return run._replace(metrics=metrics)


def test_the_excess_is_the_least_where_the_bound_says_something(tmp_path):
    run = run_of(tmp_path, (-0.2, 0.1, 0.4), (0.01, 0.5, 0.6))
    assert m_lower_bound.least_excess(run) == pytest.approx(1.5)
    assert m_lower_bound.rise(run, m_lower_bound.BOUND) == pytest.approx(0.6)
    assert m_lower_bound.largest(run, m_lower_bound.JACOBIAN) == 0.6


def test_a_bound_that_says_nothing_is_met_exactly(tmp_path):
    assert m_lower_bound.least_excess(run_of(tmp_path, (-0.2, -0.1), (0.01, 0.5))) == 1.0
