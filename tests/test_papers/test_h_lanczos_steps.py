"""What the number of Lanczos steps is said to change, on Ritz values that are made up."""

import numpy as np
import pytest
from stored_runs import stored_run, verdicts

from experiments.beyond import h_lanczos_steps

EXACT = np.concatenate([np.zeros(90), np.linspace(1, 10, 10)])


def made(tmp_path, steps, seed, split):
    """A run whose peak at zero, of 0.9, has lost the share `split` to a second Ritz value nearby."""
    nodes = np.array([[0.0, 0.01, 5.0, 10.0, 0.0]])
    weights = np.array([[0.9 - split, split, 0.05, 0.05, 0.7]])  # the last is padding
    arrays = {
        "hessian": {"nodes": nodes, "weights": weights, "num_valid": np.array([4])},
        "hessian-exact": {"eigenvalues": EXACT},
    }
    metrics = {"hessian.lambda_max": 10.0 * (1 + 1e-5), "hessian.exact.lambda_max": 10.0, "hessian.zero_mass": 0.9}
    config = {"measure": {"lanczos_steps": steps}}
    return stored_run(tmp_path / f"{steps}-{seed}", seed, "mlp", arrays, config, metrics)


@pytest.fixture
def runs(tmp_path):
    return [made(tmp_path, steps, seed, 1e-3 * steps) for steps in (10, 20, 50, 100) for seed in range(8)]


def test_masses_are_those_of_the_ritz_values_without_padding(runs):
    run = runs[-1]
    assert h_lanczos_steps.mass_of_nearest(run, 1) == pytest.approx(0.8)
    assert h_lanczos_steps.mass_of_nearest(run, 2) == pytest.approx(0.9)
    assert h_lanczos_steps.mass_within(run) == pytest.approx(0.9)
    assert h_lanczos_steps.share_within(run) == pytest.approx(0.9)
    assert h_lanczos_steps.error_of_largest(run) == pytest.approx(1e-5)


def test_a_peak_that_splits_in_two_is_as_the_paper_says(runs):
    assert verdicts(h_lanczos_steps, runs) == dict.fromkeys(verdicts(h_lanczos_steps, runs), "holds")


def test_a_peak_that_does_not_split_loses_nothing(tmp_path):
    runs = [made(tmp_path, steps, seed, 1e-9) for steps in (10, 20, 50, 100) for seed in range(8)]
    decided = verdicts(h_lanczos_steps, runs)
    assert decided["nearest-loses-mass"] == "undecided"
    assert decided["two-nearest-keep-it"] == "holds"


def test_table_and_figure_have_a_row_and_a_place_for_each_number_of_steps(runs):
    (table,), (drawing,) = h_lanczos_steps.tabulate(runs), h_lanczos_steps.draw(runs)
    assert [row[0] for row in table.rows] == ["10", "20", "50", "100"]
    assert len(drawing.data["curve"]) == 4 * len(h_lanczos_steps.MASSES)
