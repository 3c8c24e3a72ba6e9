"""Counts of outliers, shares and errors, on spectra in which they are known."""

import numpy as np
import pytest

from hessflat.analysis import spectra

RNG = np.random.default_rng(0)


def with_outliers(large, size=4000):
    """`large` eigenvalues above a bulk that falls off geometrically, noise on both sides of zero, in any order."""
    bulk = 1e-3 * 0.9 ** np.arange(300)
    noise = 1e-9 * RNG.standard_normal(size - len(large) - 300)
    return RNG.permutation(np.concatenate([large, bulk, noise]))


@pytest.mark.parametrize("count", [1, 2, 5, 10, 50])
def test_a_clear_group_is_counted_by_each_method(count):
    values = with_outliers(np.linspace(1.0, 1.2, count))
    elbow, cutoff = spectra.count_above_elbow(values)
    assert (spectra.count_above_gap(values), spectra.count_above_ratio(values), elbow) == (count, count, count)
    assert 1e-3 < cutoff < 1.0
    assert np.count_nonzero(values > cutoff) == count


def test_a_gap_inside_the_group_misleads_the_gap_and_not_the_elbow():
    values = with_outliers(np.array([5.0, 5.1, 1.0, 1.1, 1.2]))
    assert spectra.count_above_gap(values) == 2
    assert spectra.count_above_ratio(values) == 5
    assert spectra.count_above_elbow(values)[0] == 5


def test_only_the_largest_positive_ones_are_looked_at():
    values = np.array([-9.0, 0.0, 3.0, 2.0, 1.0])
    assert spectra.largest_positive(values).tolist() == [3.0, 2.0, 1.0]
    assert spectra.largest_positive(values, shown=2).tolist() == [3.0, 2.0]
    assert spectra.count_above_gap(np.array([-1.0, 0.0])) == 0
    assert spectra.count_above_elbow(np.array([-1.0, 2.0])) == (1, 0.0)


def test_shares_of_a_spectrum():
    values = np.array([-1e-12, -0.5, 0.0, 0.05, 0.2, 10.0])
    assert spectra.share_near_zero(values) == pytest.approx(3 / 6)
    assert spectra.share_near_zero(values, within=0.1) == pytest.approx(5 / 6)
    assert spectra.share_below_zero(values) == pytest.approx(1 / 6)
    assert spectra.share_below_zero(values, rounding=0) == pytest.approx(2 / 6)


def test_the_mass_near_zero_is_the_share_where_each_eigenvalue_is_a_ritz_value():
    values = np.array([-0.5, -1e-3, 0.0, 2e-3, 0.09, 1.0])
    for within in (0.01, 0.1, 0.7):
        share = spectra.ritz_share_near_zero(values, np.full(6, 1 / 6), within)
        assert share == pytest.approx(spectra.share_near_zero(values, within))


def test_the_largest_difference_is_of_equal_ranks():
    first, second = np.array([1.0, 4.0, 10.0]), np.array([9.0, 2.0, 5.0])
    assert spectra.largest_difference_at_the_top(first, second, 2) == pytest.approx(0.25)
    assert spectra.largest_difference_at_the_top(first, second, 3) == pytest.approx(1.0)


def test_ends_of_a_spectrum_are_compared_rank_by_rank():
    exact = np.array([-0.2, -0.1, 0.0, 1.0, 2.0, 4.0])
    assert spectra.largest_error_of_ends(np.array([4.0, 2.0]), np.array([-0.2, -0.1]), exact) == 0
    # One that was missed moves the others up a rank.
    assert spectra.largest_error_of_ends(np.array([4.0, 1.0]), np.array([-0.2]), exact) == pytest.approx(0.5)
    # What is rounding in float32 is not compared with zero.
    assert spectra.largest_error_of_ends(np.array([4.0]), np.array([-0.2, -0.1, 4e-6]), exact) == pytest.approx(0.1)


SPLIT = (np.array([-2.0, -0.1, 0.3, 5.0]), np.array([0.1, 0.6, 0.2, 0.1]))


def test_one_ritz_value_or_two_stand_for_zero():
    assert spectra.ritz_mass_near_zero(*SPLIT, 1) == pytest.approx((0.6, -0.1, 0.25))
    assert spectra.ritz_mass_near_zero(*SPLIT, 2) == pytest.approx((0.8, 0.0, 0.25), abs=1e-15)
    assert spectra.ritz_mass_near_zero(np.array([2.0]), np.array([1.0]), 2) == (1.0, 2.0, 0.0)
