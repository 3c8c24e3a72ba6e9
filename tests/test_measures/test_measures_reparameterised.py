"""One layer times α and another over α: beside dense float64 derivatives, and beside exp(w₁w₂w₃X) by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models
from hessflat.analysis import deep_linear
from hessflat.utils.errors import InputError


def reparameterised(name, loss, inputs, labels, num_classes=1, **settings):
    model = models.build(name, num_classes, **settings)
    params, statistics = model.init(jax.random.key(0), inputs[:1])
    split = {"inputs": inputs, "labels": labels}
    state = eval_state(model, params, statistics, {"train": split}, num_classes, loss)
    return measured(state, "reparameterised", scales=(1.0, 3.0)).arrays["reparameterised"], model, params


def test_three_weights_are_those_of_the_closed_form():
    x = jnp.array([[-2.0]])
    found, _, _ = reparameterised("deep_linear", "exponential", x, jnp.array([[-1.0]]), hidden=(1, 1))
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert [*zip(found["multiplied"], found["divided"], strict=True)] == [pair for pair in pairs for _ in range(2)]
    assert found["scale"].tolist() == [1, 3] * 6
    np.testing.assert_allclose(found["weights"][1] / found["weights"][0], [3, 1 / 3, 1], rtol=1e-15)
    np.testing.assert_allclose(found["loss"], np.exp(-2 * found["weights"].prod(1)), rtol=1e-14)
    np.testing.assert_allclose(found["loss"], found["loss"][0], rtol=1e-14)
    np.testing.assert_allclose(found["gradient"], deep_linear.exact_gradient(found["weights"], -2.0), rtol=1e-13)
    np.testing.assert_allclose(
        found["hessian"], deep_linear.exact_hessian(found["weights"], -2.0), rtol=1e-13, atol=1e-14
    )
    adaptive = deep_linear.QUANTITIES["adaptive"].values(found)
    np.testing.assert_allclose(adaptive, adaptive[0], rtol=1e-12)


@pytest.mark.long
def test_matrices_are_those_of_dense_float64_derivatives():
    keys = jax.random.split(jax.random.key(1), 2)
    inputs, labels = jax.random.normal(keys[0], (9, 4)), jax.random.randint(keys[1], (9,), 0, 3)
    found, model, params = reparameterised("deep_linear", "cross_entropy", inputs, labels, 3, hidden=(2,))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        params = {
            "Dense_0": {"kernel": 3 * params["Dense_0"]["kernel"]},
            "Dense_1": {"kernel": params["Dense_1"]["kernel"] / 3},
        }
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def loss(flat):
            log_p = jax.nn.log_softmax(model.apply(unravel(flat), {}, inputs.astype(jnp.float64), False)[0])
            return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

        np.testing.assert_allclose(found["weights"][1], flat, rtol=1e-15)
        np.testing.assert_allclose(found["gradient"][1], jax.grad(loss)(flat), atol=1e-14)
        np.testing.assert_allclose(found["hessian"][1], jax.jit(jax.hessian(loss))(flat), atol=1e-13)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", {"hidden": (2,)}, "without biases or activations"),
        ("softmax_regression", {}, "without biases or activations"),
        ("deep_linear", {"hidden": ()}, "two or more dense layers"),
        ("deep_linear", {"hidden": (50, 3)}, "at most 200 parameters, got 353"),
    ],
)
def test_other_networks_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        reparameterised(name, "cross_entropy", jnp.ones((2, 4)), jnp.array([0, 1]), 1, **settings)


def test_activations_that_parameters_do_not_show_are_refused():
    model = models.build("deep_linear", 1, hidden=(2,))
    bent = model._replace(apply=lambda *arguments: (jnp.tanh(model.apply(*arguments)[0]), {}))
    params, _ = model.init(jax.random.key(0), jnp.ones((1, 2)))
    split = {"inputs": jnp.ones((1, 2)), "labels": jnp.ones((1, 1))}
    state = eval_state(bent, params, {}, {"train": split}, 1, "squared_error")
    with pytest.raises(InputError, match="without biases or activations"):
        measured(state, "reparameterised")
