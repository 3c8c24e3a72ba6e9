"""Initial weights by name, the same choice for every family."""

from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from hessflat.config.validators import anything, one_of


class Initialiser(NamedTuple):
    """How kernels and biases start. A bias knows its layer's fan-in, as PyTorch's default needs it."""

    kernel: Callable
    bias: Callable[[int], Callable]


def _uniform_bias(fan_in: int) -> Callable:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / jnp.sqrt(jnp.asarray(fan_in, dtype))

    return init


def _constant_bias(value: float) -> Callable[[int], Callable]:
    return lambda fan_in: nn.initializers.constant(value)


# Variance 1 / (3 fan_in) uniformly is uniform(±1/√fan_in), the default of PyTorch's linear and convolutional layers.
INITIALISERS: Mapping[str, Initialiser] = {
    "uniform": Initialiser(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias),
    "he": Initialiser(nn.initializers.he_normal(), _constant_bias(0)),
    "zeros": Initialiser(nn.initializers.zeros, _constant_bias(0)),
}

# The last two are for convolutions alone.
CONVOLUTIONS: Mapping[str, Initialiser] = {
    "uniform": INITIALISERS["uniform"],
    "he": INITIALISERS["he"],
    "he_fan_out": Initialiser(nn.initializers.variance_scaling(2, "fan_out", "normal"), _constant_bias(0)),
    "glorot": Initialiser(nn.initializers.variance_scaling(1, "fan_avg", "normal"), _constant_bias(0.1)),
}

# The codes that start convolutions so leave dense layers at PyTorch's default.
_BESIDE = {"he_fan_out": "uniform", "glorot": "uniform"}

ConvBias = Annotated[bool, anything, "whether convolutions have biases"]
ConvInit = Annotated[str, one_of(CONVOLUTIONS), "initial weights; he_fan_out and glorot leave dense layers uniform"]


def dense(
    activations: jax.Array, features: int, initialiser: str, *, bias: bool = True, kernel: Callable | None = None
) -> jax.Array:
    """A dense layer started by the named initialiser, or its weights by `kernel`; to be called in a compact module."""
    named, bias_of = INITIALISERS[_BESIDE.get(initialiser, initialiser)]
    fan_in = activations.shape[-1]
    return nn.Dense(features, use_bias=bias, kernel_init=kernel or named, bias_init=bias_of(fan_in))(activations)


def conv(
    activations: jax.Array,
    features: int,
    size: int,
    initialiser: str,
    *,
    stride: int = 1,
    padding: str | None = None,
    bias: bool = True,
) -> jax.Array:
    """A convolution with square kernels, padded by ⌊size / 2⌋ on every side unless `padding` says otherwise.

    To be called in a compact module, as `dense`.
    """
    kernel, bias_of = CONVOLUTIONS[initialiser]
    half = (size // 2, size // 2)
    layer = nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=padding or (half, half),
        use_bias=bias,
        kernel_init=kernel,
        bias_init=bias_of(size * size * activations.shape[-1]),
    )
    return layer(activations)
