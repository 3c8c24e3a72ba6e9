"""Counts of outliers, on spectra whose outliers are known."""

import numpy as np
import pytest

from hessflat.analysis import outliers

RNG = np.random.default_rng(0)


def with_outliers(large, size=4000):
    """`large` eigenvalues above a bulk that falls off geometrically, noise on both sides of zero, in any order."""
    bulk = 1e-3 * 0.9 ** np.arange(300)
    noise = 1e-9 * RNG.standard_normal(size - len(large) - 300)
    return RNG.permutation(np.concatenate([large, bulk, noise]))


@pytest.mark.parametrize("count", [1, 2, 5, 10, 50])
def test_a_clear_group_is_counted_by_each_method(count):
    values = with_outliers(np.linspace(1.0, 1.2, count))
    elbow, cutoff = outliers.above_elbow(values)
    assert (outliers.above_gap(values), outliers.above_ratio(values), elbow) == (count, count, count)
    assert 1e-3 < cutoff < 1.0
    assert np.count_nonzero(values > cutoff) == count


def test_a_gap_inside_the_group_misleads_the_gap_and_not_the_elbow():
    values = with_outliers(np.array([5.0, 5.1, 1.0, 1.1, 1.2]))
    assert outliers.above_gap(values) == 2
    assert outliers.above_ratio(values) == 5
    assert outliers.above_elbow(values)[0] == 5


def test_only_the_largest_positive_ones_are_looked_at():
    values = np.array([-9.0, 0.0, 3.0, 2.0, 1.0])
    assert outliers.largest(values).tolist() == [3.0, 2.0, 1.0]
    assert outliers.largest(values, shown=2).tolist() == [3.0, 2.0]
    assert outliers.above_gap(np.array([-1.0, 0.0])) == 0
    assert outliers.above_elbow(np.array([-1.0, 2.0])) == (1, 0.0)
