import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import conv_loss, conv_problem, examples, loss, mlp_params, operator_of, symmetric
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature import numerics
from hessflat.curvature.operators.operator import layout_of
from hessflat.curvature.stochtrace.trace import probe_vector
from hessflat.utils.errors import InputError

METHODS = ["hutchinson", "hutch++", "xtrace"]
DEFLATING = METHODS[1:]
POWER = 1 / np.arange(1.0, 101.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", DEFLATING)
@pytest.mark.parametrize(
    ("eigenvalues", "products"),
    [([3.0, 2.0, 1.0], 3), ([3.0, 2.0, -5.0], 3), ([3e-7, 2e-7, -1e-7], 3), ([4e-30, 3e-30], 2), ([0.0], 0)],
    ids=["rank-3", "traceless", "1e-7", "1e-30", "zero"],
)
def test_low_rank_is_exact_and_takes_fewer_products(method, dtype, eigenvalues, products):
    with jax.enable_x64(dtype == np.float64):
        op = operator_of(symmetric(eigenvalues + [0.0] * (60 - len(eigenvalues))), dtype)
        for seed in (1, 2, 3):
            estimate = cv.trace(op, jax.random.key(seed), 30, method)
            tolerance = 20 * np.finfo(dtype).eps * np.abs(eigenvalues).sum()
            assert_allclose(estimate.value, sum(eigenvalues), rtol=0, atol=tolerance)
            assert estimate.standard_error <= tolerance
            # A sketch, as many products again as its rank, and the probes of what is left.
            assert estimate.num_products == products + {"hutch++": 10 + 10, "xtrace": 15}[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_of_the_size_sums_the_diagonal(method):
    op = operator_of(symmetric([5.0, 4.0, -2.0, 1.0]))
    for budget in (4, 30):
        estimate = cv.trace(op, jax.random.key(0), budget, method)
        assert_allclose(estimate.value, 8, rtol=1e-6)
        assert estimate.num_products == 4
        assert 0 < estimate.standard_error < 1e-5
    assert cv.trace(op, jax.random.key(0), 3, method).num_products <= 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [3, 7, 32])
def test_the_budget_is_kept(method, budget):
    estimate = cv.trace(operator_of(symmetric(POWER)), jax.random.key(0), budget, method)
    assert estimate.num_products == (budget // 2 * 2 if method == "xtrace" else budget)
    assert (estimate.precision, estimate.seconds > 0) == ("highest", True)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_standard_errors_cover_the_truth(method):
    """200 seeds: within 2 standard errors in about 95 of 100, less 4 sigma of the binomial.

    The square of the standard error is the mean squared error on average, to 3 sigma of that average (about 10 %).
    """
    op = operator_of(symmetric(POWER))
    results = [cv.trace(op, jax.random.key(seed), 30, method) for seed in range(200)]
    value, error = np.array([result[:2] for result in results]).T
    hits = np.count_nonzero(np.abs(value - POWER.sum()) <= 2 * error)
    assert 190 - 4 * np.sqrt(200 * 0.95 * 0.05) <= hits <= 200
    assert abs(np.mean(error**2) / np.mean((value - POWER.sum()) ** 2) - 1) < 0.35
    assert abs(np.mean(value) - POWER.sum()) < 4 * np.std(value) / np.sqrt(200)


@pytest.mark.slow
def test_deflation_pays_where_the_spectrum_decays():
    """Root mean square errors over seeds with the same budget."""
    op = operator_of(symmetric(0.8 ** np.arange(80.0)))
    errors = [
        np.sqrt(np.mean([(cv.trace(op, jax.random.key(seed), 30, method).value - 5) ** 2 for seed in range(20)]))
        for method in METHODS
    ]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_xtrace_is_that_of_matfree():
    """The same vectors in float64; matfree's estimator shares no code with ours."""
    stochtrace = pytest.importorskip("matfree.stochtrace")
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        matrix = symmetric(POWER)
        op = operator_of(matrix, np.float64)
        for seed in (1, 2, 3):
            key = jax.random.key(seed)
            vectors = jnp.stack([probe_vector(layout_of(op), key, k) for k in range(12)])
            theirs = stochtrace.leave_one_out_xtrace()(lambda v, matrix: matrix @ v, vectors, jnp.asarray(matrix))
            ours = cv.trace(op, key, 24, "xtrace")
            assert_allclose(ours.value, np.mean(theirs), rtol=1e-12)
            # Theirs takes the estimates for independent, and is never larger.
            assert ours.standard_error >= np.std(theirs, ddof=1) / np.sqrt(12)


def test_hutchinson_is_that_of_numpy():
    with jax.enable_x64(True):
        matrix = symmetric(POWER)
        key = jax.random.key(2)
        signs = [
            np.sqrt(100) * np.asarray(numerics.draw_probe(key, 100, np.float64, "rademacher", k)) for k in range(8)
        ]
        samples = [z @ matrix @ z for z in signs]
        ours = cv.trace(operator_of(matrix, np.float64), jax.random.key(2), 8)
        assert_allclose(ours.value, np.mean(samples), rtol=1e-12)
        assert_allclose(ours.standard_error, np.std(samples, ddof=1) / np.sqrt(8), rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_follows_sign_scale_and_type(method):
    matrix = symmetric(np.concatenate([POWER, -0.3 * POWER]))
    one = cv.trace(operator_of(matrix), jax.random.key(1), 30, method)
    for factor in (-1.0, 1e-7, -1e6):
        other = cv.trace(operator_of(factor * matrix), jax.random.key(1), 30, method)
        assert_allclose(other.value, factor * one.value, rtol=1e-4)
        assert_allclose(other.standard_error, abs(factor) * one.standard_error, rtol=1e-3)
        assert other.num_products == one.num_products


@pytest.mark.slow
@pytest.mark.parametrize("method", DEFLATING)
def test_the_trace_of_a_network_is_that_of_its_matrix(method):
    op = cv.hessian(loss, mlp_params(5, 4, 3), cv.Batches(examples(40, 5, 3), 16))
    truth = np.trace(np.asarray(op.to_dense(), np.float64))
    estimate = cv.trace(op, jax.random.key(1), 24, method)
    assert abs(estimate.value - truth) < 4 * estimate.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_loops_agree(method):
    params, batch = conv_problem()
    op = cv.hessian(conv_loss, params, cv.Batches(batch, 5))
    host, scan = (cv.trace(op, jax.random.key(0), 12, method, loop=loop) for loop in ("python", "scan"))
    assert_allclose(host[:3], scan[:3], rtol=1e-3)


def test_too_few_probes_leave_the_error_unknown():
    op = operator_of(symmetric(POWER))
    assert np.isnan(cv.trace(op, jax.random.key(0), 1).standard_error)
    assert np.isnan(cv.trace(op, jax.random.key(0), 2, "xtrace").standard_error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "hutch+"}, r"unknown method 'hutch\+'; did you mean 'hutch\+\+'\?"),
        ({"num_products": 0}, "num_products must be a whole number of at least 1, got 0"),
        ({"method": "hutch++", "num_products": 2}, r"hutch\+\+ needs num_products of at least 3, got 2"),
        ({"probe": "sign"}, "unknown probe 'sign'"),
        ({"method": "xtrace", "probe": "rademacher"}, "xtrace takes probe='gaussian' alone"),
    ],
)
def test_wrong_input_is_one_line(settings, message):
    with pytest.raises(InputError, match=message):
        cv.trace(operator_of(symmetric(POWER)), jax.random.key(0), **settings)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [6, 30])
def test_products_that_are_not_finite_are_refused(method, budget):
    with pytest.raises(InputError, match="products that are not finite"):
        cv.trace(operator_of(np.diag([1.0, np.nan] * 10)), jax.random.key(0), budget, method)
