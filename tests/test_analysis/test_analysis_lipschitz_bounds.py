"""The promises of theorems 4.4 to 4.6, beside counts of random points."""

import math

import numpy as np
import pytest

from hessflat.analysis import lipschitz_bounds


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("t", [0.3, 1.0])
def test_share_of_a_ball_at_a_corner(dimension, t):
    points = np.random.default_rng(0).random((200_000, dimension))
    counted = np.mean(np.linalg.norm(points, axis=1) <= t)
    assert lipschitz_bounds.within_share(t, dimension) == pytest.approx(counted, abs=5e-3)
    # Centred anywhere else, the share is no smaller.
    assert np.mean(np.linalg.norm(points - 0.4, axis=1) <= t) >= counted


def test_a_cone_misses_its_top_as_the_bound_says():
    # g falls from the corner with slope 2, so that the bound of theorem 4.5 is reached.
    values = 5 - 2 * np.linalg.norm(np.random.default_rng(1).random((400_000, 2)), axis=1)
    missed = np.mean(values.reshape(-1, 8).max(1) <= 5 - 0.6)
    assert lipschitz_bounds.miss_bound(0.6, 2.0, 2, 8) == pytest.approx(missed, abs=5e-3)


def test_means_stay_within_the_deviation():
    # The steepest function of the line: the uniform number itself.
    means = np.random.default_rng(2).random((20_000, 16)).mean(1)
    limit = lipschitz_bounds.mean_deviation_bound(16, 1.0, 0.05)
    assert 2 * math.exp(-16 * math.pi * limit**2) == pytest.approx(0.05)
    assert np.mean(np.abs(means - 0.5) >= limit) < 0.05


def test_the_theorem_splits_the_failure_between_its_two_terms():
    known = {"largest": 3.0, "jacobian": 4.0, "generator": 2.0, "pair": 5.0, "dimension": 2}
    bound = lipschitz_bounds.cost_deviation_bound(10_000, **known)
    # With any δ: the probability left over by the first term gives the second.
    for delta in (0.5, 1.0, 3.0):
        left = 0.05 - (1 - math.pi / 4 * min(delta / 8, 1) ** 2) ** 10_000
        assert bound <= lipschitz_bounds.mean_deviation_bound(10_000, math.sqrt(2) * 5 * (3 + delta), left)
    assert bound == pytest.approx(lipschitz_bounds.mean_deviation_bound(10_000, math.sqrt(2) * 5 * 3, 0.05), rel=0.1)
    assert lipschitz_bounds.cost_deviation_bound(1, **known) == math.inf
