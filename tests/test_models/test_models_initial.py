"""Initial weights: their laws, layer by layer."""

import jax
import numpy as np
import pytest
from model_cases import quick_jit

from hessflat import models
from hessflat.models.layers import CONVOLUTIONS

KEY = jax.random.key(3)
IMAGES = np.zeros((1, 8, 8, 3), np.float32)


def initial(name, inputs=IMAGES, **settings):
    return quick_jit(models.build(name, 10, **settings).init)(KEY, inputs)


def deviation(leaf):
    return float(np.sqrt(np.mean(np.square(leaf))))


@pytest.mark.parametrize("init", sorted(CONVOLUTIONS))
def test_convolutions_start_by_name(init):
    params, _ = initial("two_convolutions", width=64, kernel=3, padding="same", hidden=400, init=init)
    kernel, bias = np.asarray(params["Conv_1"]["kernel"]), np.asarray(params["Conv_1"]["bias"])
    fan_in, fan_out = 9 * 64, 9 * 128
    variance = {
        "uniform": 1 / (3 * fan_in),
        "he": 2 / fan_in,
        "lecun": 1 / fan_in,
        "he_fan_out": 2 / fan_out,
        "glorot": 2 / (fan_in + fan_out),
    }[init]
    # 73,728 weights: their standard deviation is known to a quarter of a percent.
    np.testing.assert_allclose(deviation(kernel), np.sqrt(variance), rtol=0.02)
    assert abs(kernel.mean()) < 0.02 * np.sqrt(variance)
    if init == "uniform":
        assert np.abs(kernel).max() <= fan_in**-0.5
        assert np.abs(bias).max() <= fan_in**-0.5
        np.testing.assert_allclose(deviation(bias), (3 * fan_in) ** -0.5, rtol=0.15)
    else:
        np.testing.assert_array_equal(bias, np.float32(0.1 if init == "glorot" else 0))


@pytest.mark.parametrize("init", sorted(CONVOLUTIONS))
def test_dense_layers_beside_them(init):
    params, _ = initial("two_convolutions", width=8, kernel=3, padding="same", hidden=800, init=init)
    kernel, bias = np.asarray(params["Dense_0"]["kernel"]), np.asarray(params["Dense_0"]["bias"])
    fan_in = kernel.shape[0]
    expected = {"he": 2 / fan_in, "lecun": 1 / fan_in}.get(init, 1 / (3 * fan_in))
    np.testing.assert_allclose(deviation(kernel), np.sqrt(expected), rtol=0.03)
    assert (np.abs(bias).max() == 0) == (init in ("he", "lecun"))
    if init not in ("he", "lecun"):
        assert max(np.abs(kernel).max(), np.abs(bias).max()) <= fan_in**-0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vgg", {"depth": 11, "width": 1, "poolings": 3, "head": (2,)}),
        ("resnet", {"depth": 10, "width": 1}),
        ("preresnet", {"depth": 11, "width": 1}),
        ("wide_resnet", {"depth": 10, "width": 1, "widening": 2}),
    ],
)
def test_batch_norm_starts_as_nothing_but_normalisation(name, settings):
    params, batch_stats = initial(name, **settings)
    flat = jax.tree_util.tree_leaves_with_path(params)
    norms = [(path[-1].key, leaf) for path, leaf in flat if path[-2].key.startswith("BatchNorm")]
    assert {kind for kind, _ in norms} == {"scale", "bias"}
    for kind, leaf in norms:
        np.testing.assert_array_equal(leaf, 1.0 if kind == "scale" else 0.0)
    running = jax.tree_util.tree_leaves_with_path(batch_stats)
    assert len(norms) == len(running)
    for path, leaf in running:
        np.testing.assert_array_equal(leaf, 1.0 if path[-1].key == "var" else 0.0)
    assert initial(name, **settings, batch_norm=False)[1] == {}


@pytest.mark.parametrize("name", ["resnet", "preresnet", "wide_resnet"])
@pytest.mark.parametrize("conv_bias", [True, False])
def test_convolutions_have_biases_or_not(name, conv_bias):
    params, _ = jax.eval_shape(models.build(name, 10, conv_bias=conv_bias).init, KEY, IMAGES)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert any(path[-2].key.startswith("Conv") and path[-1].key == "bias" for path in paths) == conv_bias


@pytest.mark.slow
def test_keys_give_different_weights_and_one_key_the_same():
    model = models.build("preresnet", 10, depth=11, width=2)
    init = quick_jit(model.init)
    one, same, other = (init(jax.random.key(seed), IMAGES)[0] for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, same))
    assert not np.array_equal(one["Conv_0"]["kernel"], other["Conv_0"]["kernel"])


def test_first_layer_of_the_coordinate_network():
    # On progressive sharpening, table 1: norms 9.09 ± 0.34 at high and 0.56 ± 0.02 at low frequencies.
    inputs = np.zeros((8, 1), np.float32)
    for first_std, norm in ((0.0, 9.24), (0.035, 0.56)):
        init = quick_jit(models.build("coordinate_network", 1, first_std=first_std).init)
        started = [init(jax.random.key(seed), inputs)[0] for seed in range(10)]
        norms = [np.linalg.norm(params["Dense_0"]["kernel"]) for params in started]
        np.testing.assert_allclose(np.mean(norms), norm, rtol=0.02)
        np.testing.assert_allclose(deviation(started[0]["Dense_1"]["kernel"]), 1 / np.sqrt(3 * 256), rtol=0.02)
