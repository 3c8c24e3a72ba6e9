"""Initial weights by name, the same choice for every family."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn


class Initialiser(NamedTuple):
    """How kernels and biases start. A bias knows its layer's fan-in, as PyTorch's default needs it."""

    kernel: Callable
    bias: Callable[[int], Callable]


def _uniform_bias(fan_in: int) -> Callable:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / jnp.sqrt(jnp.asarray(fan_in, dtype))

    return init


# Variance 1 / (3 fan_in) uniformly is uniform(±1/√fan_in), the default of PyTorch's linear and convolutional layers.
INITIALISERS: Mapping[str, Initialiser] = {
    "uniform": Initialiser(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias),
    "he": Initialiser(nn.initializers.he_normal(), lambda fan_in: nn.initializers.zeros),
    "zeros": Initialiser(nn.initializers.zeros, lambda fan_in: nn.initializers.zeros),
}


def dense(features: int, initialiser: str, fan_in: int) -> nn.Dense:
    """A dense layer started by the named initialiser."""
    kernel, bias = INITIALISERS[initialiser]
    return nn.Dense(features, kernel_init=kernel, bias_init=bias(fan_in))
