from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, losses, mlp_params, predict
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.minibatch import gradient_covariance, minibatch_products, minibatch_sharpness
from hessflat.curvature.operators.blocks import restrict
from hessflat.utils.errors import InputError


def squares(params, batch):
    return 0.5 * (batch["x"] @ params["w"] - batch["y"]) ** 2


def mean_square(params, batch):
    return jnp.mean(squares(params, batch))


def least_squares(seed=0, number=40, features=5):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(number, features)) * rng.uniform(0.5, 3, size=(number, 1)), rng.normal(size=number)
    w = rng.normal(size=features)
    data = {"x": jax.device_put(np.float32(x)), "y": jax.device_put(np.float32(y))}
    return {"w": jax.device_put(np.float32(w))}, data, w, x, y


def covariance_by_hand(w, x, y):
    return np.cov(((x @ w - y)[:, None] * x).T, bias=True)


@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradient_covariance_of_least_squares(seed, batch_size):
    params, data, w, x, y = least_squares(seed)
    C = gradient_covariance(squares, params, cv.Batches(data, batch_size))
    expected = covariance_by_hand(w, x, y)
    assert_allclose(C.to_dense(), expected, atol=1e-5 * np.abs(expected).max())


def test_a_large_mean_gradient_does_not_cancel():
    """Inputs of mean 1,000 and spread 1: the Fisher is a million times the covariance."""
    rng = np.random.default_rng(0)
    x = 1000 + rng.normal(size=(50, 3)).astype(np.float32)
    data = {"x": jax.device_put(x), "y": jnp.ones(50)}
    C = gradient_covariance(squares, {"w": jnp.zeros(3)}, cv.Batches(data, 16))
    expected = np.cov(x.astype(np.float64).T, bias=True)
    assert_allclose(C.to_dense(), expected, atol=0.02)
    F = np.asarray(cv.fisher(squares, {"w": jnp.zeros(3)}, data).to_dense())
    assert np.abs(F - np.outer(x.mean(axis=0), x.mean(axis=0)) - expected).max() > 0.02


@pytest.mark.slow
def test_gradient_covariance_of_a_network_is_that_of_its_gradients():
    params, batch = mlp_params(6, 5, 4), examples(11, 6, 4)
    C = gradient_covariance(losses, params, cv.Batches(batch, 4))
    rows = jax.jit(jax.jacrev(losses))(params, batch)
    gradients = np.concatenate([np.reshape(leaf, (11, -1)) for leaf in jax.tree.leaves(rows)], axis=1)
    expected = np.cov(gradients.astype(np.float64).T, bias=True)
    assert_allclose(C.to_dense(), expected, atol=1e-6)
    block = restrict(C, "0/*").to_dense()
    assert_allclose(block, expected[: len(block), : len(block)], atol=1e-6)
    assert np.count_nonzero(cv.eigvalsh(C) > 1e-6) == 10


def test_gradient_covariance_with_state_and_in_float64():
    def shifted(params, batch, state):
        return squares(params, {"x": batch["x"] - state["mean"][None], "y": batch["y"]})

    params, data, w, x, y = least_squares()
    mean = x.mean(axis=0)
    C = gradient_covariance(shifted, params, data, state={"mean": jax.device_put(np.float32(mean))})
    expected = covariance_by_hand(w, x - mean, y)
    assert_allclose(C.to_dense(), expected, atol=1e-5 * np.abs(expected).max())
    with jax.enable_x64(True):
        data = jax.tree.map(jnp.asarray, {"x": x, "y": y})
        C = gradient_covariance(shifted, {"w": jax.device_put(w)}, data, state={"mean": jax.device_put(mean)})
        assert_allclose(C.to_dense(), expected, rtol=1e-12)


def test_another_point_does_not_compile_again():
    traced = deque()  # known to the hash of a function by identity alone, whatever it holds

    def counted(params, batch):
        traced.append(1)
        return squares(params, batch)

    params, data, *_ = least_squares()
    gradient_covariance(counted, params, cv.Batches(data, 16))(jnp.ones(5))
    before = len(traced)
    gradient_covariance(counted, {"w": params["w"] + 1}, cv.Batches(data, 16))(jnp.ones(5))
    assert len(traced) == before


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_variance_of_products_is_that_of_sampling_without_replacement(batch_size, seed):
    params, data, _, x, _ = least_squares(seed)
    H = cv.hessian(mean_square, params, cv.Batches(data, 16))
    v = np.random.default_rng(seed).normal(size=5)
    found = minibatch_products(H, jax.random.key(seed), batch_size, 300, {"w": jax.device_put(np.float32(v))})
    each = (x @ v)[:, None] * x
    full = each.mean(axis=0)
    one = np.mean(np.sum((each - full) ** 2, axis=1)) / np.sum(full**2)
    expected = one * (40 - batch_size) / (batch_size * 39)
    assert abs(found.relative_variance - expected) < 4 * found.standard_error
    assert found.standard_error < 0.2 * expected
    assert_allclose(found.full_rayleigh, v @ full / (v @ v), rtol=1e-5)
    spread = found.rayleigh.std(ddof=1) / 300**0.5
    assert abs(found.rayleigh.mean() - found.full_rayleigh) < 4 * spread
    assert (found.num_products, found.samples.shape, found.precision) == (301, (300,), "highest")


@pytest.mark.slow
def test_all_the_data_are_one_mini_batch_without_variance():
    params, batch = mlp_params(6, 5, 4), examples(11, 6, 4)
    op = cv.hessian(loss, params, batch) - 0.5 * cv.gauss_newton(predict, criterion, params, batch) + 0.1
    found = minibatch_products(op, jax.random.key(0), 11, 2)
    assert found.relative_variance < 1e-10
    assert_allclose(found.rayleigh, found.full_rayleigh, rtol=1e-4)
    sharp = minibatch_sharpness(op, jax.random.key(0), 11, 2)
    assert_allclose(sharp.values, sharp.full, rtol=2e-3)
    assert abs(sharp.bias) < 2e-3 * sharp.full


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sharpness_of_single_examples_is_their_squared_length(seed):
    params, data, _, x, _ = least_squares(seed)
    found = minibatch_sharpness(cv.hessian(mean_square, params, data), jax.random.key(seed), 1, 60, rtol=1e-4)
    lengths = np.sum(x**2, axis=1)
    distances = np.abs(found.values[:, None] - lengths[None]) / found.values[:, None]
    assert distances.min(axis=1).max() < 1e-4
    top = np.linalg.eigvalsh(x.T @ x / 40)[-1]
    assert_allclose(found.full, top, rtol=1e-4)
    assert abs(found.mean - lengths.mean()) < 4 * found.standard_error
    assert abs(found.bias - (lengths.mean() - top)) < 4 * found.bias_standard_error
    assert (found.values >= found.rayleigh - 1e-4 * found.values).all()
    assert found.num_products > 60


def test_the_bias_falls_with_the_size_of_the_batch():
    params, data, *_ = least_squares()
    H = cv.hessian(mean_square, params, data)
    small, large = (minibatch_sharpness(H, jax.random.key(0), size, 30) for size in (2, 20))
    assert small.bias > large.bias > 0
    assert large.bias_standard_error < large.standard_error


def test_a_known_map_stays_as_it_is():
    params, data, *_ = least_squares()
    known = cv.from_matvec(lambda v, c: {"w": c * v["w"]}, params, jnp.full(5, 1e4))
    found = minibatch_products(cv.hessian(mean_square, params, data) + known, jax.random.key(0), 2, 3)
    assert_allclose(found.rayleigh, 1e4, rtol=1e-2)
    with pytest.raises(InputError, match="got a known map"):
        minibatch_products(known, jax.random.key(0), 2, 3)


def test_wrong_input_is_one_line():
    params, data, *_ = least_squares()
    H, key = cv.hessian(mean_square, params, data), jax.random.key(0)
    half = cv.hessian(mean_square, params, jax.tree.map(lambda x: x[:20], data))
    for call, message in (
        (lambda: minibatch_products(H, key, 41, 2), "batch_size must be at most the 40 examples"),
        (lambda: minibatch_products(H, key, 0, 2), "batch_size must be a whole number"),
        (lambda: minibatch_sharpness(H, key, 2, 0), "num_batches must be a whole number"),
        (lambda: minibatch_products(H + half, key, 2, 2), "one data set, got terms over"),
        (lambda: minibatch_products(H, key, 2, 2, jnp.zeros(5)), "take another vector"),
        (lambda: minibatch_products(H, key, 2, 2, {"w": jnp.zeros(4)}), r"vector\['w'\] must have shape \(5,\)"),
        (
            lambda: gradient_covariance(mean_square, params, data),
            r"must have shape \(40,\) or more axes, got shape \(\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
