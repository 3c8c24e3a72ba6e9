"""Geodesic sharpness does not see its group, and is what one weight times another has in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models
from hessflat.measures.m_sharpness import require_batches
from hessflat.utils.errors import InputError


def state_of(name, shape=(8,), num_classes=6, **settings):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (48, *shape)), jax.random.randint(keys[1], (48,), 0, num_classes)
    model = models.build(name, num_classes, **settings)
    params, batch_stats = model.init(keys[2], inputs[:1])
    split = {"inputs": inputs, "labels": labels}
    return eval_state(model, params, batch_stats, {"train": split, "test": split}, num_classes=num_classes)


def of(state, **settings):
    result = measured(state, "geodesic_sharpness", **{"m": 16, **settings})
    assert not result.failed
    return result.scalars


@pytest.mark.slow
def test_a_matrix_between_two_layers_changes_nothing():
    state = state_of("deep_linear", hidden=(4,))
    first, second = (np.asarray(state.params[f"Dense_{i}"]["kernel"], float) for i in (0, 1))
    a = np.random.default_rng(0).normal(size=(4, 4)) + 2 * np.eye(4)
    moved = [first @ a, np.linalg.inv(a) @ second]
    params = {f"Dense_{i}": {"kernel": jnp.asarray(w, jnp.float32)} for i, w in enumerate(moved)}
    before, after = of(state), of(state._replace(params=params))
    assert before["geodesic_sharpness.symmetries"] == 16
    assert after == pytest.approx(before, rel=2e-3)
    plain = [measured(s, "m_sharpness", m=16).scalars for s in (state, state._replace(params=params))]
    for name in ("m_sharpness.worst_l2", "m_sharpness.adaptive_worst_l2"):
        assert plain[0][name] != pytest.approx(plain[1][name], rel=0.05)


@pytest.mark.slow
def test_factors_of_single_hidden_units_change_nothing():
    state = state_of("mlp", hidden=(6, 5))
    by = [np.random.default_rng(i).uniform(0.3, 3, n) for i, n in enumerate((6, 5))]
    layers = [{k: np.asarray(v) for k, v in state.params[f"Dense_{i}"].items()} for i in range(3)]
    for i, factors in enumerate(by):
        layers[i] = {k: v * factors for k, v in layers[i].items()}
        layers[i + 1] = {**layers[i + 1], "kernel": layers[i + 1]["kernel"] / factors[:, None]}
    params = {f"Dense_{i}": jax.tree.map(jnp.asarray, layer) for i, layer in enumerate(layers)}
    before, after = of(state), of(state._replace(params=params))
    assert before["geodesic_sharpness.symmetries"] == 11
    assert after == pytest.approx(before, rel=2e-3)


def test_of_one_weight_times_another_it_is_in_closed_form():
    """G H = p, steps s of both logarithms are ρ = √2 s long, to second order p (1 + s + s²/2)²; s may be negative."""
    x, p, rho = np.linspace(-1, 2, 6), 0.8, 0.3
    model = models.build("deep_linear", 1, hidden=(1,))
    params = {"Dense_0": {"kernel": jnp.asarray([[2.0]])}, "Dense_1": {"kernel": jnp.asarray([[p / 2]])}}
    split = {"inputs": jnp.asarray(x[:, None], jnp.float32), "labels": jnp.full((6, 1), 0.7)}
    state = eval_state(model, params, {}, {"train": split, "test": split}, num_classes=1, loss="squared_error")
    ends = [p * (1 + s + s**2 / 2) ** 2 for s in (rho / 2**0.5, -rho / 2**0.5)]
    rises = [np.mean((end * x - 0.7) ** 2) - np.mean((p * x - 0.7) ** 2) for end in ends]
    found = of(state, m=6, rho_geodesic=rho, m_steps=10)
    assert found["geodesic_sharpness.worst"] == pytest.approx(max(rises), rel=1e-4)


@pytest.mark.slow
def test_without_a_symmetry_it_is_missing_and_says_so():
    for state, reason in (
        (state_of("mlp", hidden=(6,), activation="tanh"), "needs a network with a symmetry"),
        (state_of("deep_linear", hidden=(7,)), r"the quotient by GL(7) needs a product of rank 7"),
    ):
        assert reason in measured(state, "geodesic_sharpness", m=16).failed["geodesic_sharpness"]


@pytest.mark.long
def test_units_between_the_layers_of_residual_blocks_are_found():
    state = state_of("resnet", shape=(8, 8, 1), depth=10, width=2)
    # The first normalisation of each of four blocks, of 2, 4, 8 and 16 channels.
    assert of(state)["geodesic_sharpness.symmetries"] == 30


def test_batches_of_more_examples_than_there_are_are_refused():
    with pytest.raises(InputError, match=r"config\.measure\.m must be at most 40, .* got 41"):
        require_batches(40, 41)
