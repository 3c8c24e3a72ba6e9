import jax
import numpy as np
import pytest
from curvature_cases import conv_loss, conv_problem, operator_of, symmetric
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.errors import InputError

TRUE = np.concatenate([np.geomspace(0.01, 4, 30), np.zeros(20), [-0.5, -0.1]])
TRUTH = {cv.trace: TRUE.sum(), cv.frobenius: np.linalg.norm(TRUE)}


@pytest.mark.parametrize("estimator", TRUTH, ids=lambda f: f.__name__)
def test_signs_are_exact_on_a_diagonal(estimator):
    estimate = estimator(operator_of(np.diag(TRUE)), jax.random.key(0))
    assert_allclose(estimate.value, TRUTH[estimator], rtol=1e-5)
    assert estimate.standard_error < 1e-5


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize("estimator", TRUTH, ids=lambda f: f.__name__)
def test_standard_errors_cover_the_truth(estimator, probe):
    """200 seeds with 20 probes; t with 19 degrees of freedom; limits of 4 sigma."""
    op = operator_of(symmetric(TRUE))
    hits = 0
    for seed in range(200):
        value, error = estimator(op, jax.random.key(seed), 20, probe)
        hits += abs(value - TRUTH[estimator]) < 2.093 * error
    assert hits >= 190 - 4 * np.sqrt(200 * 0.95 * 0.05)


def test_one_probe_leaves_the_error_unknown():
    assert np.isnan(cv.trace(operator_of(symmetric(TRUE)), jax.random.key(0), 1).standard_error)


def test_loops_agree():
    params, batch = conv_problem()
    op = cv.hessian(conv_loss, params, cv.Batches(batch, 5))
    host, scan = (cv.trace(op, jax.random.key(0), 3, loop=loop) for loop in ("host", "scan"))
    assert_allclose(host, scan, rtol=1e-4)


def test_wrong_input_is_one_line():
    op = operator_of(symmetric(TRUE))
    with pytest.raises(InputError, match="num_probes must be"):
        cv.trace(op, jax.random.key(0), 0)
    with pytest.raises(InputError, match="unknown probe 'sign'"):
        cv.frobenius(op, jax.random.key(0), probe="sign")
    with pytest.raises(InputError, match="not finite"):
        cv.trace(operator_of(np.diag([1.0, np.nan])), jax.random.key(0))
