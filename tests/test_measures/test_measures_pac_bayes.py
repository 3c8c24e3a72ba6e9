"""The noise that makes the error rise, beside a linear model, and beside itself where layers are rescaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured, with_factor_moved
from scipy.stats import norm

from hessflat import models
from hessflat.utils.errors import SettingError


def of(state, **settings):
    result = measured(state, "pac_bayes", **settings)
    assert not result.failed
    return result.scalars


@pytest.fixture(scope="module")
def state():
    keys = jax.random.split(jax.random.key(0), 3)
    model = models.build("mlp", 3, hidden=(6,))
    inputs = jax.random.normal(keys[0], (200, 5))
    params, batch_stats = model.init(keys[2], inputs[:1])
    params = jax.tree.map(lambda x: 3 * x, params)
    # The labels that the network gives, so that its error is 0.
    labels = jnp.argmax(model.apply(params, batch_stats, inputs, False)[0], axis=-1)
    split = {"inputs": inputs, "labels": labels}
    return eval_state(model, params, batch_stats, {"train": split, "test": split}, batch_size=64)


@pytest.mark.slow
def test_a_factor_that_moves_to_the_next_relu_layer_changes_no_noise_in_units_of_the_weights(state):
    before, after = of(state), of(with_factor_moved(state, 4))
    name = "pac_bayes.magnitude_inverse_variance"
    assert after[name] == pytest.approx(before[name], rel=1e-3)
    assert after["pac_bayes.inverse_variance"] > 1.5 * before["pac_bayes.inverse_variance"]


@pytest.mark.long
def test_a_linear_model_is_that_of_the_normal_distribution():
    """Logits (W + σ Z)ᵀ x of one feature and two classes change their order with probability Φ(−|m| / σ√2|x|)."""
    x = jnp.abs(jax.random.normal(jax.random.key(1), (300, 1))) + 0.5
    model = models.build("deep_linear", 2, hidden=())
    params, _ = model.init(jax.random.key(0), x[:1])
    params = jax.tree.map(lambda w: jnp.asarray([[0.4, -0.4]]), params)
    split = {"inputs": x, "labels": jnp.zeros(300, int)}
    found = of(eval_state(model, params, {}, {"train": split, "test": split}, num_classes=2), noise_draws=500)
    # The margin 0.8 x over √2 σ x: the same for all examples.
    expected = (norm.ppf(0.1) * np.sqrt(2) / 0.8) ** 2
    assert abs(found["pac_bayes.inverse_variance"] - expected) < 4 * found["pac_bayes.inverse_variance_se"]
    assert found["pac_bayes.inverse_variance_se"] < 0.1 * expected


@pytest.mark.slow
def test_the_loss_may_rise_instead(state):
    real = {"inputs": jnp.eye(5)[jnp.arange(100) % 5], "labels": jnp.zeros((100, 3))}
    real = state._replace(splits={"train": real, "test": real}, loss="squared_error")
    assert of(real, noise_rise_of="loss")["pac_bayes.inverse_variance"] > 0
    with pytest.raises(SettingError, match="noise_rise_of must be 'loss' for real targets"):
        of(real)


@pytest.mark.slow
def test_a_network_at_chance_has_none(state):
    flat = jax.tree.map(jnp.zeros_like, state.params)
    wrong = {"inputs": state.splits["train"]["inputs"], "labels": jnp.full(200, 2)}
    result = measured(state._replace(params=flat, splits={"train": wrong, "test": wrong}), "pac_bayes")
    assert "noise makes the mean rise by 0.1" in result.failed["pac_bayes"]
