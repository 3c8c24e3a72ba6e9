"""The speed of this device, timed: what plans of runs count with."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessflat import models
from hessflat.runs import cost_model
from hessflat.training.config import ModelConfig
from hessflat.training.losses import cross_entropy, make_targets


def probe() -> cost_model.Speed:
    """Time a ResNet's gradient, and the steps of a loop that hardly computes."""
    # As wide as a network for CIFAR, so that the speed is that of its matrix products.
    data = cost_model.Data(32, (32, 32, 3), 10, True)
    network = ModelConfig("resnet", (("depth", 10), ("width", 32)))
    _, flops = cost_model.gradient(network, "cross_entropy", data)
    model = models.build(network.name, 10, **dict(network.settings))
    inputs = jnp.ones((data.num_examples, *data.shape))
    targets = make_targets(jnp.zeros(data.num_examples, jnp.int32), 10)
    params, statistics = jax.jit(model.init)(jax.random.key(0), inputs[:1])
    gradient = jax.jit(
        jax.grad(lambda params: jnp.mean(cross_entropy(model.apply(params, statistics, inputs, True)[0], targets)))
    )
    weights = jnp.ones((100, 10))

    @jax.jit
    def steps(weights: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 1_000, lambda _, w: w - 1e-3 * jax.grad(lambda w: jnp.sum(jnp.tanh(w)))(w), weights)

    return cost_model.Speed(
        flops * data.num_examples / _median_seconds(gradient, params), _median_seconds(steps, weights) / 1_000
    )


def _median_seconds(function: Callable, *arguments: Any) -> float:
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
