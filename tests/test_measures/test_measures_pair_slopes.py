"""Slopes between two examples beside NumPy, and beside the Jacobian norm of a function whose slope is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models


def state_of(name, inputs, labels, scale=1.0, classes=3, **settings):
    model = models.build(name, classes, **settings)
    params, batch_stats = model.init(jax.random.key(2), inputs[:1])
    split = {"inputs": inputs, "labels": labels}
    params = jax.tree.map(lambda x: scale * x, params)
    return eval_state(model, params, batch_stats, {"train": split, "test": split}, num_classes=classes)


def of(state):
    return measured(state, "pair_slopes").scalars


def test_slopes_are_those_of_every_pair():
    inputs = jax.random.normal(jax.random.key(0), (20, 4))
    inputs = inputs.at[7].set(inputs[3])  # a pair without a distance
    labels = jax.random.randint(jax.random.key(1), (20,), 0, 3)
    state = state_of("mlp", inputs, labels, scale=3.0, hidden=(6,))
    logits = np.asarray(state.functions().logits(state.params, inputs), float)
    outputs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    x, y = np.asarray(inputs, float), np.eye(3)[np.asarray(labels)]
    errors = np.linalg.norm(outputs - y, axis=1)
    by_targets, by_outputs = [], []
    for i, j in itertools.combinations(range(20), 2):
        if (distance := np.linalg.norm(x[i] - x[j])) > 0:
            by_targets.append((np.linalg.norm(y[i] - y[j]) - errors[i] - errors[j]) / distance)
            by_outputs.append(np.linalg.norm(outputs[i] - outputs[j]) / distance)
    found = of(state)
    assert found["pair_slopes.targets"] == pytest.approx(max(by_targets), rel=1e-4)
    assert found["pair_slopes.outputs"] == pytest.approx(max(by_outputs), rel=1e-4)


def test_no_pair_is_steeper_than_the_largest_jacobian_between_them():
    """Of a softmax of two classes in one dimension, max |dσ/dx| is known: √2 |w| / 4, where both are as likely."""
    inputs = jnp.linspace(-1, 1, 41)[:, None]
    labels = (inputs[:, 0] > 0).astype(jnp.int32)
    state = state_of("softmax_regression", inputs, labels, scale=0.0, classes=2)
    weights = jnp.array([[-3.0, 3.0]])
    params = jax.tree.map(lambda x: weights if x.shape == weights.shape else x, state.params)
    found = of(state._replace(params=params))
    steepest = np.sqrt(2) * 6 / 4
    assert found["pair_slopes.targets"] <= found["pair_slopes.outputs"] <= steepest
    assert found["pair_slopes.outputs"] == pytest.approx(steepest, rel=0.01)  # of the neighbours of 0


def test_targets_that_are_not_fitted_ask_for_no_slope():
    inputs = jax.random.normal(jax.random.key(0), (20, 4))
    labels = jax.random.randint(jax.random.key(1), (20,), 0, 3)
    found = of(state_of("mlp", inputs, labels, scale=0.0, hidden=(6,)))
    assert found["pair_slopes.targets"] < 0 == found["pair_slopes.outputs"]
