"""Power laws of tails against samples of known laws, and against SciPy's distance; outliers by their gap."""

import doctest

import numpy as np
import pytest
from scipy import stats

import hessflat.curvature as cv
from hessflat.curvature.exact import tails
from hessflat.utils.errors import InputError


def pareto(exponent, size, minimum=1.0, seed=0):
    return minimum * (1 - np.random.default_rng(seed).random(size)) ** (-1 / (exponent - 1))


def test_the_exponent_is_that_of_the_law_within_its_error():
    deviations = []
    for seed in range(12):
        found = cv.power_law(pareto(2.5, 400, 3.0, seed), minimum=3.0, num_samples=0)
        assert found.standard_error == pytest.approx((found.exponent - 1) / 20)
        deviations.append((found.exponent - 2.5) / found.standard_error)
    assert abs(np.mean(deviations)) < 3 / np.sqrt(12)
    assert 0.4 < np.std(deviations) < 2
    assert found.rank_exponent == pytest.approx(1 / (found.exponent - 1))


def test_fit_and_distance_are_those_of_scipy():
    values = pareto(2.2, 300)
    found = cv.power_law(values, minimum=1.0, num_samples=0)
    shape, _, _ = stats.pareto.fit(values, floc=0, fscale=values.min())
    assert found.exponent == pytest.approx(shape + 1, rel=1e-6)
    law = stats.pareto(found.exponent - 1, scale=found.minimum)
    assert found.distance == pytest.approx(stats.kstest(values, law.cdf).statistic, rel=1e-9)


def test_the_start_of_the_tail_is_found_and_what_is_no_law_is_ruled_out():
    bulk = np.random.default_rng(1).uniform(0.01, 1, 600)
    law = pareto(2.5, 300)
    found = cv.power_law(np.concatenate([bulk, law, -bulk]), num_samples=40)
    assert 0.7 < found.minimum < 2
    assert abs(found.exponent - 2.5) < 3 * found.standard_error
    assert found.p_value > 0.1
    assert (found.num_values, found.num_tail) == (900, np.count_nonzero(np.concatenate([bulk, law]) >= found.minimum))
    other = cv.power_law(np.random.default_rng(2).uniform(1, 2, 300), minimum=1.0, num_samples=40)
    assert other.p_value == 0
    assert "α 2." in str(found)


def test_outliers_are_above_the_largest_ratio():
    assert cv.outliers([0.1, 0.11, 0.12, 0.9, 1.0, -3.0]) == cv.Outliers(2, pytest.approx(7.5), 0.9)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(50), {}, "a tail needs 10 different positive eigenvalues"),
        (np.arange(5.0), {}, "got 4; measure more"),
        ([np.nan] * 20, {}, "must be finite"),
        ("text", {}, "must be real numbers"),
        (pareto(2, 50), {"minimum": 1e9}, "got 0 above 1e+09"),
        (pareto(2, 50), {"num_samples": -1}, "num_samples"),
    ],
)
def test_what_has_no_tail_is_one_line(values, options, message):
    with pytest.raises(InputError) as caught:
        cv.power_law(values, **options)
    assert message in str(caught.value)


def test_examples_of_the_texts():
    assert doctest.testmod(tails).failed == 0
