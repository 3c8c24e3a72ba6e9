import jax
import numpy as np
import pytest
from curvature_cases import conv_loss, conv_problem, operator_of, symmetric
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.errors import InputError

TRUE = np.concatenate([np.geomspace(0.01, 4, 30), np.zeros(20), [-0.5, -0.1]])
TRUTH = {
    "trace": TRUE.sum(),
    "mean_eigenvalue": TRUE.mean(),
    "frobenius": np.linalg.norm(TRUE),
    "second_moment": np.mean(TRUE**2),
}


def test_signs_are_exact_on_a_diagonal():
    moments = cv.moments(operator_of(np.diag(TRUE)), jax.random.key(0))
    for name, truth in TRUTH.items():
        estimate = getattr(moments, name)
        assert_allclose(estimate.value, truth, rtol=1e-5)
        assert estimate.standard_error < 1e-5


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_standard_errors_cover_the_truth(probe):
    """200 seeds with 20 probes; t with 19 degrees of freedom; limits of 4 sigma."""
    op = operator_of(symmetric(TRUE))
    results = [cv.moments(op, jax.random.key(seed), 20, probe) for seed in range(200)]
    for name, truth in TRUTH.items():
        estimates = [getattr(result, name) for result in results]
        hits = sum(abs(estimate.value - truth) < 2.093 * estimate.standard_error for estimate in estimates)
        assert hits >= 190 - 4 * np.sqrt(200 * 0.95 * 0.05), name


def test_every_number_says_what_it_took():
    moments = cv.moments(operator_of(symmetric(TRUE)), jax.random.key(0), 7)
    for record in (moments, moments.trace, moments.frobenius, moments.second_moment):
        assert (record.num_products, record.precision) == (7, "highest")
        assert record.seconds == moments.seconds > 0


def test_one_probe_leaves_the_error_unknown():
    assert np.isnan(cv.frobenius(operator_of(symmetric(TRUE)), jax.random.key(0), 1).standard_error)


def test_moments_follow_the_scale_of_the_operator():
    """To squares that no float32 holds."""
    op = operator_of(symmetric(TRUE))
    whole, tiny = (cv.moments(o, jax.random.key(0)) for o in (op, op * -1e-30))
    assert_allclose(tiny.trace.value, -1e-30 * whole.trace.value, rtol=1e-5)
    assert_allclose(tiny.frobenius.value, 1e-30 * whole.frobenius.value, rtol=1e-5)
    assert_allclose(tiny.frobenius.standard_error, 1e-30 * whole.frobenius.standard_error, rtol=1e-4)


@pytest.mark.slow
def test_loops_agree():
    params, batch = conv_problem()
    op = cv.hessian(conv_loss, params, cv.Batches(batch, 5))
    host, scan = (cv.moments(op, jax.random.key(0), 3, loop=loop) for loop in ("python", "scan"))
    assert_allclose(host.trace.value, scan.trace.value, rtol=1e-4)
    assert_allclose(host.frobenius.standard_error, scan.frobenius.standard_error, rtol=1e-4)


def test_wrong_input_is_one_line():
    op = operator_of(symmetric(TRUE))
    with pytest.raises(InputError, match="num_probes must be"):
        cv.moments(op, jax.random.key(0), 0)
    with pytest.raises(InputError, match="unknown probe 'sign'"):
        cv.frobenius(op, jax.random.key(0), probe="sign")
    with pytest.raises(InputError, match="not finite"):
        cv.moments(operator_of(np.diag([1.0, np.nan])), jax.random.key(0))


def test_how_many_probes_one_program_takes_changes_nothing(monkeypatch):
    A = operator_of(symmetric([-1.0, 0.5, 2.0, 4.0]))
    together = cv.moments(A, jax.random.key(3), num_probes=6)
    for numbers in (1, 12):  # one probe at a time, and three
        monkeypatch.setattr(estimates, "_NUMBERS_TOGETHER", numbers)
        apart = cv.moments(A, jax.random.key(3), num_probes=6)
        assert_allclose(apart.trace.value, together.trace.value, rtol=1e-6)
        assert_allclose(apart.frobenius.standard_error, together.frobenius.standard_error, rtol=1e-5)
