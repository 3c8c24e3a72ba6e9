"""Edges of stability against iterated optimisers; sharpness along updates and of mini-batches against enumeration."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)
GENERATOR = np.random.default_rng(0)
NUMBER, SIZE = 8, 5
X = GENERATOR.standard_normal((NUMBER, SIZE)).astype(np.float32)
W = GENERATOR.standard_normal(SIZE).astype(np.float32)
ETA, BETA = 0.1, 0.8


def loss(w, x):
    return jnp.mean((x @ w - 1) ** 2) / 2


def weighted_loss(w, batch):
    return jnp.sum(batch["m"] * (batch["x"] @ w - 1) ** 2) / jnp.sum(batch["m"]) / 2


WIDE = np.asarray(X, np.float64)
HESSIAN = WIDE.T @ WIDE / NUMBER
GRADIENT = WIDE.T @ (WIDE @ W - 1) / NUMBER


@pytest.fixture(scope="module")
def op():
    return cv.hessian(loss, W, cv.Batches(X, 3))


@pytest.mark.parametrize(
    ("optimiser", "edge"),
    [
        (optax.sgd(ETA), cv.edges.gradient_descent(ETA)),
        (optax.sgd(ETA, BETA), cv.edges.heavy_ball(ETA, BETA)),
        (optax.sgd(ETA, BETA, nesterov=True), cv.edges.nesterov(ETA, BETA)),
        (optax.chain(optax.ema(BETA, debias=False), optax.scale(-ETA)), cv.edges.adam(ETA, BETA)),
    ],
)
def test_an_optimiser_converges_below_its_edge_and_diverges_above(optimiser, edge):
    @jax.jit
    def end(curvature):
        def step(_, carry):
            w, state = carry
            updates, state = optimiser.update(curvature * w, state, w)
            return w + updates, state

        return jax.lax.fori_loop(0, 2000, step, (jnp.ones(()), optimiser.init(jnp.ones(()))))[0]

    assert abs(end(0.98 * edge)) < 1e-3
    assert not abs(end(1.02 * edge)) < 1e3


@pytest.mark.parametrize(("curvature", "radius", "w"), [(3.0, 0.1, 0.7), (0.5, 2.0, 0.1)])
def test_sam_oscillates_at_its_edge(curvature, radius, w):
    eta = 2 * w / (curvature * (w + radius))  # w ← w − η a (w + ρ) is −w
    np.testing.assert_allclose(cv.edges.sam(eta, radius, curvature * w), curvature, rtol=1e-6)
    assert cv.edges.sam(0.1, 0.0, 1.0) == pytest.approx(20)


def test_the_edge_of_sam_is_a_number_where_the_gradient_is_zero():
    for zero in (0, 0.0, np.float32(0), jnp.zeros(())):
        assert cv.edges.sam(0.1, 0.05, zero) == 0
        assert cv.edges.sam(0.1, 0.0, zero) == pytest.approx(20)
    np.testing.assert_allclose(cv.edges.sam(0.1, 0.05, np.array([0.0, 1e-12])), [0, 2e-5], rtol=1e-4)


def test_gradients_are_those_of_the_whole_loss(op):
    np.testing.assert_allclose(cv.gradient(op), GRADIENT, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cv.gradient(2 * op + 0.5), 2 * GRADIENT + W / 2, rtol=1e-5, atol=1e-6)
    weights = np.arange(NUMBER, dtype=np.float32)
    weighted = cv.hessian(weighted_loss, W, cv.Batches({"x": X, "m": weights}, 3, weights="m"))
    np.testing.assert_allclose(
        cv.gradient(weighted), WIDE.T @ (weights * (WIDE @ W - 1)) / weights.sum(), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(InputError, match="which Hessians hold"):
        cv.gradient(cv.from_matvec(lambda v: v, jnp.zeros(2)))


@pytest.mark.parametrize("multiple", [1e-3, 0.3, 1.0, 7.0])
def test_critical_sharpness_of_a_quadratic_is_that_of_its_hessian(op, multiple):
    updates, _ = (opt := optax.adam(multiple)).update(jnp.asarray(GRADIENT, jnp.float32), opt.init(W), W)
    for step, rate in ((-multiple * GRADIENT, multiple), (np.asarray(updates, np.float64), multiple)):
        expected = step @ HESSIAN @ step / (-rate * (GRADIENT @ step))
        result = cv.critical_sharpness(op, step.astype(np.float32), rate)
        assert result.value == pytest.approx(expected, rel=1e-3)
        assert result.lower < expected < result.upper < 1.06 * result.lower
        assert result.num_passes <= (7 if multiple == 1e-3 else 6)
        along = cv.directional_sharpness(op, step.astype(np.float32), rate)
        assert along.critical == pytest.approx(expected, rel=1e-5)
        assert along.value == pytest.approx(step @ HESSIAN @ step / (step @ step), rel=1e-5)
        assert np.abs(np.linalg.eigvalsh(HESSIAN) - along.value).min() <= along.residual


def test_critical_sharpness_of_a_network_is_where_its_loss_comes_back():
    params = {"a": GENERATOR.standard_normal((SIZE, 6)).astype(np.float32), "b": np.ones(6, np.float32)}

    def network(p, x):
        return jnp.mean((jnp.tanh(x @ p["a"]) @ p["b"] - 1) ** 2)

    H = cv.hessian(network, params, X)
    updates = jax.tree.map(lambda g: -g, cv.gradient(H))
    result = cv.critical_sharpness(H, updates, rtol=0.01)

    @jax.jit
    def rise(x):
        return network(jax.tree.map(lambda w, u: w + x * u, params, updates), X) - network(params, X)

    root = scipy.optimize.brentq(lambda x: float(rise(x)), 0.5 * result.step, 2 * result.step)
    assert result.lower <= 2 / root <= result.upper
    assert result.value == pytest.approx(2 / root, rel=1e-3)


def test_where_no_step_brackets_it_critical_sharpness_is_no_number(op):
    up = cv.critical_sharpness(op, GRADIENT.astype(np.float32))
    assert np.isnan(up.value)
    assert np.isnan(cv.directional_sharpness(op, GRADIENT.astype(np.float32)).critical)
    with pytest.raises(InputError, match="updates must not be zero"):
        cv.directional_sharpness(op, np.zeros(SIZE, np.float32))
    with pytest.raises(InputError, match="needs examples in memory"):
        cv.critical_sharpness(cv.hessian(loss, W, cv.Stream([X])), W)


def test_mini_batches_agree_with_all_that_there_are(op):
    forms, squares = [], []
    for chosen in itertools.combinations(range(NUMBER), 2):
        x = WIDE[list(chosen)]
        g = x.T @ (x @ W - 1) / 2
        forms.append(g @ (x.T @ x / 2) @ g)
        squares.append(g @ g)
    found = cv.batch_sharpness(op, KEY, 2, 100)
    assert abs(found.value - np.mean(forms) / np.mean(squares)) < 4 * found.standard_error < 0.5 * found.value
    everything = cv.batch_sharpness(op, KEY, NUMBER, 2)
    assert everything.value == pytest.approx(GRADIENT @ HESSIAN @ GRADIENT / (GRADIENT @ GRADIENT), rel=1e-5)
    assert everything.standard_error < 1e-5
    rows = WIDE * (WIDE @ W - 1)[:, None] - GRADIENT
    trace = np.mean(np.sum(rows**2, axis=1))
    noise = cv.gradient_noise_scale(op, KEY, 2, 100)
    assert abs(noise.trace - trace) < 4 * noise.trace_standard_error < 0.5 * trace
    assert noise.value == pytest.approx(noise.trace / (GRADIENT @ GRADIENT), rel=1e-5)
    with pytest.raises(InputError, match="below the 8 examples"):
        cv.gradient_noise_scale(op, KEY, NUMBER, 2)


@pytest.mark.parametrize("step", [0.0, 1e-5, 1e-4])
def test_the_noise_scale_near_a_minimum_has_the_rounding_of_the_gradient_in_its_error(step):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(512, 20)).astype(np.float32), rng.normal(size=512).astype(np.float32)
    at_minimum = np.linalg.lstsq(x.astype(np.float64), y.astype(np.float64))[0]
    params = (at_minimum + step * rng.normal(size=20)).astype(np.float32)
    op = cv.hessian(lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2), jnp.asarray(params), (x, y))
    rows = 2 * (x @ params.astype(np.float64) - y)[:, None] * x
    mean = rows.mean(axis=0)
    expected = ((rows - mean) ** 2).sum() / (len(rows) - 1) / (mean @ mean)
    if step == 0:
        with pytest.raises(InputError, match="the gradient of all data is zero to rounding"):
            cv.gradient_noise_scale(op, KEY, 64, 20)
    else:
        noise = cv.gradient_noise_scale(op, KEY, 64, 20)
        assert abs(noise.value - expected) < 4 * noise.standard_error < expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cv.edges.gradient_descent(-0.1), "learning_rate must be finite and above 0, got -0.1"),
        (lambda: cv.edges.gradient_descent(jnp.array([0.1, 0.0])), "learning_rate must be finite and above 0"),
        (lambda: cv.edges.gradient_descent([0.1, 0.2]), "learning_rate must be finite and above 0, got [0.1, 0.2]"),
        (lambda: cv.edges.gradient_descent("0.1"), "learning_rate must be finite and above 0, got '0.1'"),
        (lambda: cv.edges.heavy_ball(0.1, 1.0), "momentum must be finite and at least 0 and below 1, got 1.0"),
        (lambda: cv.edges.nesterov(0.1, -0.5), "momentum must be finite"),
        (lambda: cv.edges.adam(0.1, 1.5), "b1 must be finite"),
        (lambda: cv.edges.sam(0.1, -1.0, 1.0), "radius must be finite and at least 0, got -1.0"),
        (lambda: cv.edges.sam(0.1, 0.1, math.nan), "gradient_norm must be finite"),
    ],
)
def test_what_has_no_edge_is_refused(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


def test_edges_are_taken_of_arrays_and_under_jit():
    rates = jnp.array([0.1, 0.2])
    for edge in (
        cv.edges.gradient_descent,
        lambda rate: cv.edges.adam(rate, 0.9),
        lambda rate: cv.edges.sam(rate, 0.1, 2.0),
    ):
        np.testing.assert_allclose(jax.jit(edge)(rates), edge(rates), rtol=1e-6)
