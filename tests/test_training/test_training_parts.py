"""Schedules, optimisers and losses against their formulas written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessflat.training.losses import accuracy, cross_entropy
from hessflat.training.optimisers import OPTIMISERS
from hessflat.training.schedules import SCHEDULES


def test_linear_decay_is_the_papers_equation():
    factor = SCHEDULES["linear_decay"](50, final_ratio=0.01)

    def paper(t):
        if t / 50 <= 0.5:
            return 1.0
        return 1 - 0.99 * (t / 50 - 0.5) / 0.4 if t / 50 <= 0.9 else 0.01

    epochs = np.arange(51)
    np.testing.assert_allclose(factor(jnp.array(epochs)), [paper(t) for t in epochs], rtol=1e-5, atol=1e-6)


def test_step_decay_and_constant():
    epochs = jnp.array([0, 49, 50, 79, 80, 89])
    np.testing.assert_allclose(SCHEDULES["step_decay"](90)(epochs), [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    np.testing.assert_array_equal(SCHEDULES["constant"](90)(epochs), np.ones(6))


def sgd_by_hand(w, gradient, lr, l2, steps):
    z = np.zeros_like(w)
    for step in range(steps):
        z = 0.9 * z + gradient(w) + l2 * w
        w = w - lr(step) * z
    return w


def adam_by_hand(w, gradient, lr, l2, steps, decoupled):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step in range(steps):
        g = gradient(w) + (0 if decoupled else l2 * w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        update = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w = w - lr(step) * (update + (l2 * w if decoupled else 0))
    return w


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("sgd", sgd_by_hand),
        ("adam", lambda *a: adam_by_hand(*a, decoupled=False)),
        ("adamw", lambda *a: adam_by_hand(*a, decoupled=True)),
    ],
)
def test_optimiser_takes_the_steps_of_its_definition(name, by_hand):
    w = np.random.default_rng(0).normal(size=5)
    rates = [0.1, 0.05, 0.2, 0.01, 0.1, 0.1]
    with jax.enable_x64(True):
        optimiser = OPTIMISERS[name](lambda step: jnp.array(rates)[step], 0.03)
        params = jnp.array(w)
        state = optimiser.init(params)
        for _ in rates:
            updates, state = optimiser.update(jnp.cos(params), state, params)
            params = params + updates
        np.testing.assert_allclose(params, by_hand(w, np.cos, lambda s: rates[s], 0.03, len(rates)), rtol=1e-10)


def test_cross_entropy_and_label_smoothing():
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
    labels = np.array([0, 1])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = 0.7 * np.eye(3)[labels] + 0.1
    np.testing.assert_allclose(
        cross_entropy(jnp.array(logits), jnp.array(labels)), -log_p[[0, 1], labels].mean(), rtol=1e-6
    )
    smoothed = cross_entropy(jnp.array(logits), jnp.array(labels), 0.3)
    np.testing.assert_allclose(smoothed, -(targets * log_p).sum(axis=1).mean(), rtol=1e-6)
    assert accuracy(jnp.array(logits), jnp.array(labels)) == 0.5
