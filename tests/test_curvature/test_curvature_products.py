"""State, statistics over batches, H − G, and the Fisher of the model, against dense matrices of another making."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, mlp_params, predict
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

PARAMS, BATCH = mlp_params(5, 4, 3), examples(11, 5, 3)
FLAT, UNRAVEL = ravel_pytree(PARAMS)


def dense_hessian(function):
    """By `jax.hessian` of a function of the flat parameters: reverse over forward, the whole matrix at once."""
    return np.asarray(jax.jit(jax.hessian(lambda flat: function(UNRAVEL(flat))))(FLAT))


def predict_in_train_mode(params, batch):
    """Hidden units normalised by the statistics of the batch, which are differentiated through."""
    (w, b), (v, c) = params
    hidden = batch["x"] @ w + b[None]
    hidden = (hidden - hidden.mean(axis=0, keepdims=True)) / jnp.sqrt(hidden.var(axis=0, keepdims=True) + 1e-3)
    return jnp.tanh(hidden) @ v + c[None]


def loss_in_train_mode(params, batch):
    return criterion(predict_in_train_mode(params, batch), batch)


def predict_in_eval_mode(params, batch, statistics):
    (w, b), (v, c) = params
    hidden = (batch["x"] @ w + b[None] - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-3)
    return jnp.tanh(hidden) @ v + c[None]


def criterion_with_state(outputs, batch, statistics):
    return criterion(outputs, batch)


def loss_in_eval_mode(params, batch, statistics):
    return criterion(predict_in_eval_mode(params, batch, statistics), batch)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 4, 8])
def test_statistics_are_over_batches_of_their_own_size(batch_size):
    """Eleven examples in batches of 4, 4 and 3, however many are in memory at a time."""

    def mean_over_batches(params):
        pieces = [jax.tree.map(lambda x, i=i: x[i : i + 4], BATCH) for i in (0, 4, 8)]
        return sum(len(piece["y"]) / 11 * loss_in_train_mode(params, piece) for piece in pieces)

    op = cv.hessian(loss_in_train_mode, PARAMS, cv.Batches(BATCH, batch_size, statistics_batch=4))
    expected = dense_hessian(mean_over_batches)
    assert_allclose(op.to_dense(), expected, atol=1e-6)
    assert_allclose(cv.linearize(op)(jnp.ones(op.size)), expected.sum(axis=1), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 8])
def test_both_terms_of_the_hessian_take_statistics_over_batches(batch_size):
    data = cv.Batches(BATCH, batch_size, statistics_batch=4)
    G, R = (f(predict_in_train_mode, criterion, PARAMS, data) for f in (cv.gauss_newton, cv.residual))
    H = cv.hessian(loss_in_train_mode, PARAMS, data)
    assert_allclose((G + R).to_dense(), H.to_dense(), atol=1e-6)


@pytest.mark.slow
def test_the_whole_sample_is_one_batch_of_statistics_by_default():
    op = cv.hessian(loss_in_train_mode, PARAMS, BATCH)
    assert_allclose(op.to_dense(), dense_hessian(lambda p: loss_in_train_mode(p, BATCH)), atol=1e-6)
    smaller = cv.hessian(loss_in_train_mode, PARAMS, cv.Batches(BATCH, statistics_batch=4))
    assert np.abs(op.to_dense() - smaller.to_dense()).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 4])
def test_running_statistics_are_a_constant_argument(batch_size):
    statistics = {"mean": jnp.full((1, 4), 0.3), "var": jnp.full((1, 4), 2.0)}
    before = jax.tree.map(np.array, statistics)
    data = cv.Batches(BATCH, batch_size)
    H = cv.hessian(loss_in_eval_mode, PARAMS, data, state=statistics)
    expected = dense_hessian(lambda p: loss_in_eval_mode(p, BATCH, statistics))
    G = cv.gauss_newton(predict_in_eval_mode, criterion_with_state, PARAMS, data, state=statistics)
    R = cv.residual(predict_in_eval_mode, criterion_with_state, PARAMS, data, state=statistics)
    for op in (H, cv.linearize(H), G + R):
        assert_allclose(op.to_dense(), expected, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, statistics, before)


def test_a_batch_that_would_cut_statistics_is_refused():
    with pytest.raises(InputError, match="batch_size must be a multiple of statistics_batch, 4"):
        cv.hessian(loss_in_train_mode, PARAMS, cv.Batches(BATCH, 6, statistics_batch=4))
    with pytest.raises(InputError, match="statistics_batch must be a whole number"):
        cv.hessian(loss_in_train_mode, PARAMS, cv.Batches(BATCH, 6, statistics_batch=0))


@pytest.mark.slow
def test_the_residual_is_what_the_gauss_newton_matrix_leaves():
    data = cv.Batches(BATCH, 4)
    R = cv.residual(predict, criterion, PARAMS, data)
    difference = cv.hessian(loss, PARAMS, data) - cv.gauss_newton(predict, criterion, PARAMS, data)
    assert_allclose(R.to_dense(), difference.to_dense(), atol=1e-6)
    second = jax.jit(jax.jacfwd(jax.jacrev(lambda flat: predict(UNRAVEL(flat), BATCH))))
    jacobian = np.asarray(second(FLAT), np.float64)
    slopes = np.asarray(jax.nn.softmax(predict(PARAMS, BATCH)) - jax.nn.one_hot(BATCH["y"], 3), np.float64) / 11
    assert_allclose(R.to_dense(), np.einsum("nc,ncpq->pq", slopes, jacobian), atol=1e-6)


def test_the_residual_of_a_linear_model_is_zero():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    R = cv.residual(predict, criterion, params, batch)
    assert not np.asarray(R.to_dense()).any()


def test_model_fisher_of_a_softmax_is_its_gauss_newton_matrix():
    data = cv.Batches(BATCH, 4)
    G = cv.gauss_newton(predict, criterion, PARAMS, BATCH)
    assert_allclose(cv.model_fisher(predict, PARAMS, data).to_dense(), G.to_dense(), atol=1e-6)


def categorical(key, logits):
    return jax.random.categorical(key, logits)


def log_probability(logits, label):
    return jax.nn.log_softmax(logits)[label]


@pytest.mark.slow
def test_drawn_labels_give_the_fisher_in_the_mean_and_the_same_at_every_product():
    key, exact = jax.random.key(0), cv.model_fisher(predict, PARAMS, BATCH).to_dense()
    drawn = [
        cv.model_fisher(predict, PARAMS, cv.Batches(BATCH, size), (categorical, log_probability), key, 400)
        for size in (None, 4)
    ]
    for other in (drawn[1].to_dense(), drawn[0].to_dense()):
        assert_allclose(drawn[0].to_dense(), other, atol=1e-6)
    errors = [
        np.abs(cv.model_fisher(predict, PARAMS, BATCH, (categorical, log_probability), key, n).to_dense() - exact).max()
        for n in (4, 400)
    ]
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 4


@pytest.mark.slow
def test_model_fisher_in_one_line_where_it_cannot_be_had():
    for settings, message in (
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson'; known: bernoulli, gaussian, softmax"),
        ({"likelihood": (categorical, log_probability)}, "needs a key"),
    ):
        with pytest.raises(InputError, match=message):
            cv.model_fisher(predict, PARAMS, BATCH, **settings)
    with pytest.raises(InputError, match="without statistics_batch"):
        cv.model_fisher(predict, PARAMS, cv.Batches(BATCH, 4, 4), (categorical, log_probability), jax.random.key(0))
