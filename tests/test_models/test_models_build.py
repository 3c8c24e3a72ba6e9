"""Models: sizes of the papers, and forward passes against plain NumPy."""

import jax
import numpy as np
import pytest

from hessflat import models
from hessflat.measures.performance import rank_bound
from hessflat.models.mlp import ACTIVATIONS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "shape", "classes", "expected"),
    [
        ("softmax_regression", {}, (28, 28, 1), 10, 7_850),
        ("softmax_regression", {}, (8, 8, 1), 10, 650),
        ("mlp", {"hidden": (100,)}, (28, 28, 1), 10, 79_510),
        ("mlp", {"hidden": (30, 30)}, (100,), 2, 4_022),
        ("mlp", {"hidden": (30, 30)}, (100,), 50, 5_510),
    ],
)
def test_number_of_parameters(name, settings, shape, classes, expected):
    params, batch_stats = models.build(name, classes, **settings).init(
        jax.random.key(0), np.zeros((1, *shape), np.float32)
    )
    assert models.num_params(params) == expected
    assert batch_stats == {}


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_mlp_is_what_it_says(activation):
    model = models.build("mlp", 3, hidden=(5, 4), activation=activation, init="he")
    inputs = np.random.default_rng(0).normal(size=(6, 2, 2, 1)).astype(np.float32)
    params, _ = model.init(jax.random.key(0), inputs)
    logits, batch_stats = model.apply(params, {}, inputs, True)
    by_hand = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "gaussian": lambda x: np.exp(-(x**2) / 2)}
    x = inputs.reshape(6, -1)
    for i, layer in enumerate(("Dense_0", "Dense_1", "Dense_2")):
        x = x @ np.asarray(params[layer]["kernel"]) + np.asarray(params[layer]["bias"])
        x = by_hand[activation](x) if i < 2 else x
    np.testing.assert_allclose(logits, x, rtol=1e-5, atol=1e-5)
    assert batch_stats == {}


def test_uniform_initialisation_fills_the_interval_of_pytorch():
    params, _ = models.build("mlp", 10, hidden=(400,)).init(jax.random.key(0), np.zeros((1, 100), np.float32))
    for leaf, fan_in in ((params["Dense_0"]["kernel"], 100), (params["Dense_0"]["bias"], 100)):
        limit = 1 / np.sqrt(fan_in)
        assert np.abs(leaf).max() <= limit
        np.testing.assert_allclose(np.std(leaf), limit / np.sqrt(3), rtol=0.1)


def test_rank_bound_of_the_paper():
    # 13,416 neurons and d_x = 1,024 are the paper's own count for VGG-16.
    assert rank_bound(10, 13_416, 1_024) == 577_600
    assert round(1 - 577_600 / 1.6e7, 4) == 0.9639


def test_neurons_are_counted_from_the_layers():
    params, _ = models.build("mlp", 10, hidden=(100, 50)).init(jax.random.key(0), np.zeros((1, 64), np.float32))
    assert models.num_neurons(params) == 160
    assert models.input_size(np.zeros((7, 8, 8, 1))) == 64
