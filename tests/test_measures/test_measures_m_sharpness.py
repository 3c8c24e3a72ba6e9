"""What m-sharpness must not see: factors that move between ReLU layers, factors of all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models

FORMS = ("worst_l2", "worst_linf", "average")


@pytest.fixture(scope="module")
def state():
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (40, 5)), jax.random.randint(keys[1], (40,), 0, 3)
    model = models.build("mlp", 3, hidden=(6,))
    params, batch_stats = model.init(keys[2], inputs[:1])
    split = {"inputs": inputs, "labels": labels}
    return eval_state(model, jax.tree.map(lambda x: 2 * x, params), batch_stats, {"train": split, "test": split})


def of(state, **settings):
    return measured(state, "m_sharpness", **{"m": 16, **settings}).scalars


def scaled(params, first, last):
    """Both arrays of the first layer times `first`; of the last, the weights over that, and all times `last`."""
    kernel, bias = params["Dense_1"]["kernel"] / first, params["Dense_1"]["bias"]
    return {
        "Dense_0": jax.tree.map(lambda x: first * x, params["Dense_0"]),
        "Dense_1": {"kernel": last * kernel, "bias": last * bias},
    }


@pytest.mark.slow
def test_what_changes_no_function_changes_no_adaptive_sharpness(state):
    before, after = of(state), of(state._replace(params=scaled(state.params, 3.0, 1.0)))
    for logits in ("", "logit_normalised_"):
        for form in FORMS:
            name = f"m_sharpness.{logits}adaptive_{form}"
            assert after[name] == pytest.approx(before[name], rel=2e-3)
    assert after["m_sharpness.worst_l2"] != pytest.approx(before["m_sharpness.worst_l2"], rel=0.1)


@pytest.mark.slow
def test_a_factor_of_all_logits_changes_none_with_normalised_logits(state):
    before, after = of(state), of(state._replace(params=scaled(state.params, 1.0, 5.0)))
    for form in FORMS:
        name = f"m_sharpness.logit_normalised_adaptive_{form}"
        assert after[name] == pytest.approx(before[name], rel=2e-3)
        other = f"m_sharpness.adaptive_{form}"
        assert after[other] != pytest.approx(before[other], rel=0.1)


@pytest.mark.slow
def test_one_step_on_all_examples_is_the_rise_at_the_perturbation_of_sam_by_hand(state):
    found = of(state, m=40, m_steps=1, rho_l2=0.3)
    x, y = (np.asarray(state.splits["train"][name], float) for name in ("inputs", "labels"))
    w1, b1, w2, b2 = (np.asarray(state.params[f"Dense_{i}"][k], float) for i in (0, 1) for k in ("kernel", "bias"))

    def forward(w1, b1, w2, b2):
        hidden = np.maximum(x @ w1 + b1, 0)
        logits = hidden @ w2 + b2
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return hidden, p, -np.log(p[np.arange(40), y.astype(int)]).mean()

    hidden, p, loss = forward(w1, b1, w2, b2)
    error = (p - np.eye(3)[y.astype(int)]) / 40
    back = (error @ w2.T) * (hidden > 0)
    gradient = [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
    length = np.sqrt(sum(np.sum(g**2) for g in gradient))
    there = [w + 0.3 * g / length for w, g in zip((w1, b1, w2, b2), gradient, strict=True)]
    assert found["m_sharpness.worst_l2"] == pytest.approx(forward(*there)[2] - loss, rel=1e-4)
    assert np.isnan(found["m_sharpness.worst_l2_se"])


def test_batches_of_more_examples_than_there_are_make_the_measure_missing(state):
    found = measured(state, "m_sharpness", m=64)
    assert not found.scalars
    assert "config.measure.m must be at most 40, the measured examples" in found.failed["m_sharpness"]


@pytest.mark.slow
def test_a_loss_without_logits_has_none_normalised(state):
    real = {"inputs": jnp.ones((20, 5)), "labels": jnp.ones((20, 3))}
    found = of(state._replace(splits={"train": real, "test": real}, loss="squared_error"), m=10)
    assert {name.removesuffix("_se") for name in found} == {
        f"m_sharpness.{scaled}{form}" for scaled in ("", "adaptive_") for form in FORMS
    }
