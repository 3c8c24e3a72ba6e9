"""Growth, late values and the edge of stability, of runs whose numbers are made up."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hessflat.analysis import histories
from hessflat.analysis.results import Run


def run_with(a, b=None):
    """Measured every five steps, ten of which are an epoch; the last line is of something else alone."""
    lines = [{"step": 5 * i, "epoch": i / 2, "a": value, "b": b[i] if b else None} for i, value in enumerate(a)]
    lines.append({"step": 5 * len(a), "epoch": len(a) / 2, "a": None, "c": 1.0})
    return Run(Path("runs/m/0"), {"seed": 0}, {"status": "done"}, lines)


def test_a_series_is_where_the_metric_was_measured():
    steps, values = histories.series(run_with([2.0, 3.0, 8.0, 5.0]), "a", to_epoch=1)
    assert (steps.tolist(), values.tolist()) == ([0, 5, 10], [2.0, 3.0, 8.0])


def test_series_are_compared_where_all_have_a_step():
    several = [(np.array([0, 5, 10]), np.array([1.0, 2.0, 3.0])), (np.array([5, 0]), np.array([7.0, 6.0]))]
    steps, values = histories.at_common_steps(several)
    assert (steps.tolist(), values.tolist()) == ([0, 5], [[1.0, 2.0], [6.0, 7.0]])


def test_growth_is_from_the_first_value_to_the_largest():
    run = run_with([2.0, 3.0, 8.0, 5.0])
    assert (histories.first_value(run, "a"), histories.largest_value(run, "a")) == (2.0, 8.0)
    assert histories.growth_factor(run, "a") == 4.0
    assert histories.growth_factor(run, "a", to_epoch=0.5) == 1.5


def test_late_values_are_means_of_the_last_three():
    run = run_with([1.0, 10.0, 4.0, 1.0, 0.5, 0.3])
    assert histories.late_value(run, "a") == pytest.approx(0.6)
    assert histories.remaining_share(run, "a") == pytest.approx(0.06)
    run = run_with([0.0, 1, 2, 3, 4, 5, 6])
    assert histories.late_growth_factor(run, "a") == pytest.approx(5 / 3)


def test_ranks_are_of_what_was_measured_together():
    a, b = [1.0, 2.0, 3.0, 2.5], [3.0, None, 1.0, 2.0]
    expected = stats.kendalltau([1.0, 3.0, 2.5], [3.0, 1.0, 2.0]).statistic
    assert histories.tau_over_steps(run_with(a, b), "a", "b") == pytest.approx(expected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_limit_is_where_descent_on_a_quadratic_stops_converging(momentum):
    limit = histories.stability_limit(0.1, momentum)
    for curvature, grows in ((0.99 * limit, False), (1.01 * limit, True)):
        step = np.array([[1 + momentum - 0.1 * curvature, -momentum], [1, 0]])
        assert (np.abs(np.linalg.eigvals(step)).max() > 1) == grows


def test_the_edge_counts_from_where_it_is_first_reached():
    run = run_with([1.0, 3.0, 5.0, 3.0, 4.0])
    assert histories.first_crossing(run, "a", 4.0) == 10
    assert histories.ratio_to_limit(run, "a", 4.0) == 1
    assert histories.first_crossing(run, "a", 6.0) is None
    assert histories.ratio_to_limit(run, "a", 10.0) == 0.5
