"""Relative flatness beside ridge regression, a dense Hessian in NumPy's order, and itself where layers are rescaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured, with_factor_moved

from hessflat import models


def state_at(model, params, inputs, labels, **settings):
    split = {"inputs": inputs, "labels": labels}
    return eval_state(model, params, {}, {"train": split, "test": split}, **settings)


def of(state, probes):
    result = measured(state, "relative_flatness", relative_probes=probes)
    assert not result.failed
    return result.scalars


@pytest.fixture(scope="module")
def state():
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (40, 5)), jax.random.randint(keys[1], (40,), 0, 3)
    model = models.build("mlp", 3, hidden=(6,))
    params, _ = model.init(keys[2], inputs[:1])
    return state_at(model, jax.tree.map(lambda x: 2 * x, params), inputs, labels)


@pytest.mark.parametrize("probes", [10_000, 200])
def test_of_least_squares_it_is_that_of_ridge_regression(probes):
    """The mean of ‖W x − y‖² / C, C outputs: H_ss = 2 E x xᵀ / C, H_ss' = 0, so 2 ‖W‖² E ‖x‖² / C."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(30, 8)), rng.normal(size=(8, 40))
    model = models.build("deep_linear", 40, hidden=())
    params = {"Dense_0": {"kernel": jnp.asarray(w, jnp.float32)}}
    state = state_at(
        model, params, jnp.asarray(x, jnp.float32), jnp.zeros((30, 40)), num_classes=40, loss="squared_error"
    )
    found, expected = of(state, probes), 2 / 40 * np.sum(w**2) * np.mean(np.sum(x**2, axis=1))
    if probes == 200:
        assert abs(found["relative_flatness.sum"] - expected) < 4 * found["relative_flatness.sum_se"] < 0.1 * expected
    else:
        assert found["relative_flatness.sum"] == pytest.approx(expected, rel=1e-4)
        assert found["relative_flatness.max"] == pytest.approx(expected, rel=1e-4)
        assert found["relative_flatness.sum_se"] == 0


@pytest.mark.long
def test_layers_are_those_of_the_dense_hessian_neuron_by_neuron(state):
    train = state.splits["train"]
    layers = ("Dense_0", "Dense_1")

    def loss(kernels):
        params = {name: {**state.params[name], "kernel": k} for name, k in zip(layers, kernels, strict=True)}
        log_p = jax.nn.log_softmax(state.model.apply(params, {}, train["inputs"], False)[0])
        return -jnp.mean(jnp.take_along_axis(log_p, train["labels"][:, None], 1))

    kernels = [state.params[name]["kernel"] for name in layers]
    blocks = jax.hessian(loss)(kernels)
    expected = []
    for i, kernel in enumerate(kernels):
        w, h = np.asarray(kernel, float), np.asarray(blocks[i][i], float)
        outputs = range(w.shape[1])
        expected.append(sum(w[:, s] @ w[:, t] * np.trace(h[:, s, :, t]) for s in outputs for t in outputs))
    exact, estimated = of(state, 10_000), of(state, 56)
    for name, value in {"sum": sum(expected), "max": max(expected)}.items():
        name = f"relative_flatness.{name}"
        assert exact[name] == pytest.approx(value, rel=1e-4)
        # One product fewer than there are parameters: not exact.
        assert 0 < abs(estimated[name] - value) < 4 * estimated[f"{name}_se"]


@pytest.mark.slow
@pytest.mark.parametrize("probes", [10_000, 30])
def test_a_factor_that_moves_to_the_next_relu_layer_changes_nothing(state, probes):
    before, after = of(state, probes), of(with_factor_moved(state, 3), probes)
    for name in ("relative_flatness.sum", "relative_flatness.max"):
        assert after[name] == pytest.approx(before[name], rel=1e-3)
