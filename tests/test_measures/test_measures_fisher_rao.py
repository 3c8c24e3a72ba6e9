"""The Fisher-Rao norm beside the outputs of homogeneous networks, and beside itself where layers are rescaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured, with_factor_moved

from hessflat import models


def state_of(name, labels_key=1, examples=0, scale=2.0, **settings):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (40, 5)), jax.random.randint(keys[labels_key], (40,), 0, 3)
    model = models.build(name, 3, **settings)
    params, batch_stats = model.init(keys[2], inputs[:1])
    split = {"inputs": inputs, "labels": labels}
    params = jax.tree.map(lambda x: scale * x, params)
    return eval_state(model, params, batch_stats, {"train": split, "test": split}, examples=examples)


def of(state):
    return measured(state, "fisher_rao").scalars


@pytest.mark.parametrize("hidden", [(6,), (6, 4)])
def test_of_a_homogeneous_network_it_is_of_its_outputs_alone(hidden):
    """(L + 1)² E ⟨∂ℓ/∂f, f⟩² and (L + 1)² E Var_p f, by NumPy from the product of the matrices."""
    state = state_of("deep_linear", hidden=hidden)
    f = np.asarray(state.splits["train"]["inputs"], float)
    for name in sorted(state.params):
        f = f @ np.asarray(state.params[name]["kernel"], float)
    p = np.exp(f) / np.exp(f).sum(axis=1, keepdims=True)
    slope = p - np.eye(3)[np.asarray(state.splits["train"]["labels"])]
    layers, found = len(hidden) + 1, of(state)
    assert found["fisher_rao.empirical"] == pytest.approx(layers * np.sqrt(np.mean((slope * f).sum(1) ** 2)), rel=1e-4)
    variance = (p * f**2).sum(1) - (p * f).sum(1) ** 2
    assert found["fisher_rao.model"] == pytest.approx(layers * np.sqrt(np.mean(variance)), rel=1e-4)
    assert found["fisher_rao.empirical_se"] == found["fisher_rao.model_se"] == 0


def test_a_factor_that_moves_to_the_next_relu_layer_changes_nothing():
    state = state_of("mlp", hidden=(6,))
    before, after = of(state), of(with_factor_moved(state, 3))
    for name in ("fisher_rao.empirical", "fisher_rao.model"):
        assert after[name] == pytest.approx(before[name], rel=1e-4)


def test_the_error_is_that_of_the_sample():
    whole, part = of(state_of("deep_linear", hidden=(6,))), of(state_of("deep_linear", hidden=(6,), examples=30))
    for name in ("fisher_rao.empirical", "fisher_rao.model"):
        assert 0 < abs(part[name] - whole[name]) < 4 * part[f"{name}_se"] < whole[name]


def test_real_targets_have_no_labels_of_a_model():
    state = state_of("deep_linear", hidden=(6,))
    real = {"inputs": jnp.ones((8, 5)), "labels": jnp.ones((8, 3))}
    found = of(state._replace(splits={"train": real, "test": real}, loss="squared_error"))
    assert set(found) == {"fisher_rao.empirical", "fisher_rao.empirical_se"}
