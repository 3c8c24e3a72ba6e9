import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    conv_predict,
    conv_problem,
    criterion,
    examples,
    mlp_params,
    operator_of,
    predict,
    softmax_regression_hessian,
    symmetric,
)
from curvature_cases import loss as softmax_loss
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.errors import InputError


def test_every_eigenvalue_of_softmax_regression():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    expected = np.linalg.eigvalsh(softmax_regression_hessian(params, batch))
    values = cv.eigvalsh(cv.hessian(softmax_loss, params, cv.Batches(batch, 8)))
    assert values.dtype == np.float64
    assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_gram_side_gives_the_dense_eigenvalues(batch_size):
    params, batch = mlp_params(12, 6, 4), examples(7, 12, 4)
    G = cv.gauss_newton(predict, criterion, params, cv.Batches(batch, batch_size))
    dense = np.linalg.eigvalsh(np.asarray(G.to_dense(), np.float64))
    assert G.size > 7 * 4
    assert_allclose(cv.eigvalsh(G), dense, atol=2e-6)
    assert_allclose(cv.eigvalsh(3 - 2 * G), np.sort(3 - 2 * dense), atol=5e-6)


def test_gram_side_takes_a_criterion_that_is_not_convex():
    def saddle(outputs, batch):
        return jnp.mean(outputs[:, 0] ** 2 - outputs[:, 1] ** 2 + outputs[:, 0] * outputs[:, 2])

    params, batch = mlp_params(12, 4), examples(5, 12, 4)
    G = cv.gauss_newton(predict, saddle, params, batch)
    dense = np.linalg.eigvalsh(np.asarray(G.to_dense(), np.float64))
    assert dense[0] < -0.1
    assert_allclose(cv.eigvalsh(G), dense, atol=1e-5)


def test_gram_side_of_a_convolution():
    params, batch = conv_problem(5)
    G = cv.gauss_newton(conv_predict, criterion, params, batch)
    assert_allclose(cv.eigvalsh(G), np.linalg.eigvalsh(np.asarray(G.to_dense(), np.float64)), atol=1e-6)


def test_more_outputs_than_parameters_are_solved_densely():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    expected = np.linalg.eigvalsh(softmax_regression_hessian(params, batch))
    assert_allclose(cv.eigvalsh(cv.gauss_newton(predict, criterion, params, batch)), expected, atol=1e-6)


def test_a_known_matrix():
    true = np.sort(np.random.default_rng(0).normal(size=40))
    assert_allclose(cv.eigvalsh(operator_of(symmetric(true))), true, atol=2e-6)


def test_too_large_names_the_alternative():
    op = cv.from_matvec(lambda v: v, jnp.zeros(20_001))
    with pytest.raises(InputError, match="use spectrum or eigenpairs instead"):
        cv.eigvalsh(op)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        cv.eigvalsh(operator_of(np.diag([1.0, np.nan])))


def test_dense_matrix_in_float64():
    with jax.enable_x64(True):
        matrix = symmetric(np.linspace(-1, 1, 37))
        assert_allclose(operator_of(matrix, np.float64).to_dense(), matrix, atol=1e-15)
