"""Norms of weights by NumPy, and beside themselves where layers are rescaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured, with_factor_moved

from hessflat import models


def state_of(name="mlp", labels=None, **settings):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (40, 5))
    model = models.build(name, 3, **settings)
    start, batch_stats = model.init(keys[2], inputs[:1])
    params = jax.tree.map(lambda x: 2 * x + 0.1, start)
    if labels is None:
        labels = jnp.argmax(model.apply(params, batch_stats, inputs, False)[0], axis=-1)
    split = {"inputs": inputs, "labels": labels}
    state = eval_state(model, params, batch_stats, {"train": split, "test": split}, batch_size=16)
    return state._replace(first_params=lambda: start)


def of(state):
    result = measured(state, "norms")
    assert not result.failed
    return result.scalars


def test_they_are_those_of_the_matrices():
    state = state_of(hidden=(6,))
    found = of(state)
    w1, b1, w2, b2 = (np.asarray(state.params[f"Dense_{i}"][k], float) for i in (0, 1) for k in ("kernel", "bias"))
    starts = state.first_params()
    away = [
        np.asarray(state.params[layer][k], float) - np.asarray(starts[layer][k], float)
        for layer in starts
        for k in starts[layer]
    ]
    assert found["norms.distance"] == pytest.approx(np.sqrt(sum(np.sum(x**2) for x in away)), rel=1e-5)
    product = np.linalg.svd(w1)[1][0] * np.linalg.svd(w2)[1][0]
    assert found["norms.spectral_product"] == pytest.approx(product, rel=1e-5)
    path = np.sqrt(sum(
        sum(w1[i, j] ** 2 for i in range(5)) * w2[j, k] ** 2 + b1[j] ** 2 * w2[j, k] ** 2
        for j in range(6) for k in range(3)
    ) + np.sum(b2**2))  # fmt: skip
    assert found["norms.path"] == pytest.approx(path, rel=1e-5)
    x = np.asarray(state.splits["train"]["inputs"], float)
    ordered = np.sort(np.maximum(x @ w1 + b1, 0) @ w2 + b2, axis=1)
    margin = np.quantile(ordered[:, -1] - ordered[:, -2], 0.1)
    assert found["norms.spectral_product_over_margin"] == pytest.approx(product / margin, rel=1e-4)
    assert found["norms.path_over_margin"] == pytest.approx(path / margin, rel=1e-4)


def test_a_factor_that_moves_to_the_next_relu_layer_changes_only_the_distance():
    state = state_of(hidden=(6,))
    before, after = of(state), of(with_factor_moved(state, 4))
    assert after.pop("norms.distance") > 1.5 * before.pop("norms.distance")
    assert after == pytest.approx(before, rel=1e-4)
    assert len(after) == 4


@pytest.mark.parametrize("activation", ["tanh", "gaussian"])
def test_paths_through_other_activations_have_no_norm(activation):
    assert set(of(state_of(hidden=(6,), activation=activation))) == {
        "norms.distance", "norms.spectral_product", "norms.spectral_product_over_margin",
    }  # fmt: skip


def test_without_a_margin_nothing_is_over_it():
    wrong = state_of(hidden=(6,), labels=jnp.arange(40) % 3)
    assert set(of(wrong)) == {"norms.distance", "norms.spectral_product", "norms.path"}


def test_with_batch_norm_there_is_the_distance_alone():
    assert set(of(state_of(hidden=(6,), batch_norm=True))) == {"norms.distance"}
