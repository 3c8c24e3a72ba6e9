"""Barriers and rises along lines that are made by hand."""

import numpy as np
import pytest

from hessflat.analysis import interpolation

LINE = {
    "alphas": np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0]),
    "train_loss": np.array([99.0, 8.0, 3.0, 0.5, 2.0, 1.0, 3.0, 5.0, 99.0]),
    "train_accuracy": np.array([0.0, 0.1, 0.2, 0.9, 0.5, 0.7, 0.6, 0.4, 0.0]),
}


def test_rises_are_means_up_to_one_distance_beyond_either_end():
    assert interpolation.rises(LINE) == pytest.approx((5.5 - 0.5, 4.0 - 1.0))
    assert interpolation.asymmetry(LINE) == pytest.approx((5 - 3) / (5 + 3))


def test_a_barrier_is_above_the_mean_of_the_ends():
    assert interpolation.error_barrier(LINE) == pytest.approx(0.5 - (0.1 + 0.3) / 2)


def test_as_many_records_are_compared_on_both_sides_of_a_switch():
    before = np.array([9.0, *np.linspace(1.0, 0.1, 30)])
    after = np.array([0.1, 0.7, 0.4, 0.3, *np.full(27, 0.05)])
    expected = float(np.linspace(1.0, 0.1, 30)[-3])
    assert interpolation.extremes_around_switch(before, after, np.max) == pytest.approx((expected, 0.7))
    assert interpolation.extremes_around_switch(before, after, np.min) == pytest.approx((0.1, 0.3))
    assert interpolation.extremes_around_switch(before, after[:4], np.max) == pytest.approx((0.1, 0.7))
