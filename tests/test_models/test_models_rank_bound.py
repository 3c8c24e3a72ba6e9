"""G's bound on the rank of the Hessian beside exact ranks in float64: where it holds, and where it fails.

The networks have fewer rows in the bound than parameters, so that it says something. What is true instead, with C
classes, M hidden units together and N examples, is derived in `docs/rank_bound.md`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from hessflat import models
from hessflat.measures.performance import rank_bound

WIDTH = 16


class Ranks(NamedTuple):
    gauss_newton: int
    hessian: int
    size: int  # P
    bound: int


def ranks(name, num_examples, num_classes=2, shape=(7,), all_on=False, factor=1.0, **settings):
    """By dense derivatives of the loss as it is defined; numpy's tolerance is P ε of the largest eigenvalue.

    With `all_on`, weights are small and biases near 1. With a `factor` other than 1 the last layer is multiplied by
    it, and labels are what the network says.
    """
    model = models.build(name, num_classes, **settings)
    keys = jax.random.split(jax.random.key(0), 3)
    params, _ = model.init(keys[0], jnp.zeros((1, *shape)))
    last = max(layer for layer in params if layer.startswith("Dense_"))
    with jax.enable_x64(True):
        inputs = jax.random.normal(keys[1], (num_examples, *shape), jnp.float64)
        params = {
            layer: {k: (0.3 * v + (k == "bias") if all_on else v).astype(jnp.float64) * (factor if layer == last else 1)
                    for k, v in leaves.items()}
            for layer, leaves in params.items()
        }  # fmt: skip
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def predict(flat):
            return model.apply(unravel(flat), {}, inputs, False)[0]

        @quick_jit
        def derivatives(flat):
            logits = predict(flat)
            drawn = jax.random.randint(keys[2], (num_examples,), 0, num_classes)
            targets = jax.nn.one_hot(drawn if factor == 1 else jnp.argmax(logits, 1), num_classes)
            loss = lambda flat: -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(predict(flat)), 1))  # noqa: E731
            return jax.hessian(loss)(flat), jax.jacrev(predict)(flat), jax.nn.softmax(logits)

        H, J, p = map(np.array, derivatives(flat))
    middle = p[:, :, None] * np.eye(num_classes)[None] - p[:, :, None] * p[:, None, :]
    G = np.einsum("ncp,ncd,ndq->pq", J, middle, J, optimize=True) / num_examples
    found = (int(np.linalg.matrix_rank(matrix, hermitian=True)) for matrix in (G, H))
    return Ranks(*found, len(H), rank_bound(num_classes, models.num_neurons(params), int(np.prod(shape))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "rows", "num_classes"),
    [
        ("deep_linear", {"hidden": (WIDTH, WIDTH)}, 7, 2),
        ("mlp", {"hidden": (WIDTH, WIDTH), "activation": "relu", "all_on": True}, 8, 2),
        ("deep_linear", {"hidden": (32, 24)}, 7, 3),
    ],
)
def test_it_holds_for_linear_networks_and_for_one_activation_pattern(name, settings, rows, num_classes):
    """`rows` of the inputs: d_x, and one more with biases."""
    hidden = sum(settings["hidden"])
    for num_examples in (1, 60):
        found = ranks(name, num_examples, num_classes, **settings)
        assert found.gauss_newton <= (num_classes - 1) * min(rows, num_examples)
        assert found.hessian <= (num_classes - 1) * (rows + 2 * hidden) < found.bound < found.size


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_one_example_has_a_direction_or_two_for_each_hidden_unit(activation):
    found = ranks("mlp", 1, hidden=(WIDTH, WIDTH), activation=activation)
    assert found.gauss_newton == 1
    assert found.hessian <= 1 + 4 * WIDTH < found.bound
    if activation == "tanh":
        assert found.hessian == 1 + 4 * WIDTH


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "num_examples", "factor"),
    [("tanh", 10, 1.0), ("tanh", 100, 1.0), ("relu", 300, 1.0), ("tanh", 100, 10.0)],
)
def test_it_fails_for_many_examples(activation, num_examples, factor):
    found = ranks("mlp", num_examples, hidden=(2 * WIDTH, WIDTH), activation=activation, factor=factor)
    assert found.bound < found.hessian
    assert found.gauss_newton == num_examples
    # Adding the same to all logits, by weights or by biases of the last layer, changes no loss.
    always = found.size - WIDTH - 1
    assert found.hessian <= min(always, num_examples * (1 + 2 * 3 * WIDTH))
    if (activation, num_examples) == ("tanh", 100):
        assert found.hessian == always


@pytest.mark.slow
@pytest.mark.long
def test_it_fails_for_convolutions():
    settings = {"width": 6, "kernel": 3, "hidden": 12, "padding": "same"}
    one, many = (ranks("two_convolutions", n, shape=(4, 4, 1), **settings) for n in (1, 120))
    channels = 6 + 12 + 12
    assert 1 + 2 * channels < one.hessian < one.bound
    assert many.bound < many.hessian
