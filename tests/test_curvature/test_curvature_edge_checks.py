"""Edges of stability in training, ranks of deep linear networks, and softmax regression: published numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import hessflat.curvature as cv

KEY = jax.random.key(0)
DIGITS = load_digits()


def linear(params, batch):
    x = batch["x"]
    for weights in params:
        x = x @ weights
    return x


def half_squares(outputs, batch):
    return jnp.mean(jnp.sum((outputs - batch["y"]) ** 2, axis=1)) / 2


def linear_loss(params, batch):
    return half_squares(linear(params, batch), batch)


@pytest.mark.parametrize(("sizes", "ranks"), [((10, 5, 3), (30, 51)), ((5, 4, 4, 4, 3), (15, 60))])
def test_ranks_of_deep_linear_networks_are_those_of_the_closed_forms(sizes, ranks):
    """Singh, Bachmann and Hofmann (2021): rank G = q (d + K − q), rank H = 2 q M − L q² + q (d + K)."""
    rng = np.random.default_rng(0)
    q, hidden, layers = min(sizes), sum(sizes[1:-1]), len(sizes) - 1
    ends = sizes[0] + sizes[-1]
    assert ranks == (q * (ends - q), 2 * q * hidden - layers * q**2 + q * ends)
    with jax.enable_x64(True):
        params = [rng.standard_normal(pair) for pair in itertools.pairwise(sizes)]
        batch = {"x": rng.standard_normal((60, sizes[0])), "y": rng.standard_normal((60, sizes[-1]))}
        for op, rank in (
            (cv.gauss_newton(linear, half_squares, params, batch), ranks[0]),
            (cv.hessian(linear_loss, params, batch), ranks[1]),
        ):
            values = np.abs(cv.eigvalsh(op))
            assert (values > 1e-9 * values.max()).sum() == rank


def test_softmax_regression_at_zero_has_the_covariance_of_its_inputs_over_classes():
    x = jnp.asarray(DIGITS.data / 16, jnp.float32)
    batch = {"x": x, "y": jnp.asarray(DIGITS.target)}

    def loss(w, batch):
        return optax.softmax_cross_entropy_with_integer_labels(batch["x"] @ w, batch["y"]).mean()

    top = cv.sharpness(cv.hessian(loss, jnp.zeros((64, 10)), batch), KEY, rtol=1e-5)
    wide = np.asarray(x, np.float64)
    assert top.value == pytest.approx(np.linalg.eigvalsh(wide.T @ wide / len(wide))[-1] / 10, rel=1e-5)


DATA = {
    "x": jnp.asarray(DIGITS.data[:500] / 16, jnp.float32),
    "y": jnp.asarray(np.eye(10)[DIGITS.target[:500]], jnp.float32),
}


def perceptron(params, batch):
    x = batch["x"]
    for weights, bias in params[:-1]:
        x = jnp.tanh(x @ weights + bias[None])
    return x @ params[-1][0] + params[-1][1][None]


def training_loss(params, batch):
    return half_squares(perceptron(params, batch), batch)


def first_params():
    rng = np.random.default_rng(0)
    pairs = ((64, 32), (32, 32), (32, 10))
    return [(jnp.asarray(rng.normal(0, (3 * a) ** -0.5, (a, b)), jnp.float32), jnp.zeros(b)) for a, b in pairs]


def late_ratios(optimiser, steps, edge, radius=0.0, settings=None):
    """λ_max over its edge at ten times in the last third of training."""

    def gradient(params):
        g = jax.grad(training_loss)(params, DATA)
        if radius:
            scale = radius / optax.tree.norm(g)
            g = jax.grad(training_loss)(jax.tree.map(lambda w, x: w + scale * x, params, g), DATA)
        return g

    @jax.jit
    def train(params, state, count):
        def step(_, carry):
            updates, state = optimiser.update(gradient(carry[0]), carry[1], carry[0])
            return optax.apply_updates(carry[0], updates), state

        return jax.lax.fori_loop(0, count, step, (params, state))

    params, state = train(first_params(), optimiser.init(first_params()), steps * 2 // 3)
    ratios = []
    for _ in range(10):
        params, state = train(params, state, steps // 30)
        H = cv.hessian(training_loss, params, DATA)
        op = H if settings is None else cv.preconditioned(H, cv.preconditioner(state, params, **settings))
        norm = optax.tree.norm(cv.gradient(H))
        ratios.append(cv.sharpness(op, KEY).value / float(edge(norm)))
    return np.array(ratios)


@pytest.mark.long
def test_training_comes_to_the_edge_of_gradient_descent_adam_and_sam():
    descent = late_ratios(optax.sgd(0.4), 6000, lambda norm: cv.edges.gradient_descent(0.4))
    assert abs(descent.mean() - 1) < 0.03
    adam = {"b1": 0.9, "b2": 0.999, "eps": 1e-7}
    ratios = late_ratios(optax.adam(1e-3, **adam), 6000, lambda norm: cv.edges.adam(1e-3, 0.9), settings=adam)
    assert abs(ratios.mean() - 1) < 0.03
    sharp = late_ratios(optax.sgd(0.2), 6000, lambda norm: cv.edges.sam(0.2, 0.05, norm), radius=0.05)
    assert abs(sharp.mean() - 1) < 0.06
