"""What networks are built of: layers with their initial weights, batch normalisation, pooling, residual stages.

All are made inside compact modules. Running averages of batch normalisation are taken as in PyTorch but for one
thing: flax averages the variance of the batch as it is, PyTorch its unbiased estimate, larger by n / (n - 1) with n the
number of activations of a channel.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from hessflat.config import anything, below, one_of, positive
from hessflat.utils.errors import InputError


class Initialiser(NamedTuple):
    """How kernels start, and biases: `bias(fan_in, key, shape, dtype)`, for PyTorch's default needs the fan-in."""

    kernel: Callable
    bias: Callable[..., jax.Array]


def _uniform_bias(
    fan_in: int, key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / jnp.sqrt(jnp.asarray(fan_in, dtype))


def _constant_bias(
    value: float, fan_in: int, key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    return jnp.full(shape, value, dtype)


# Variance 1 / (3 fan_in) uniformly is uniform(±1/√fan_in), the default of PyTorch's linear and convolutional layers.
INITIALISERS: Mapping[str, Initialiser] = {
    "uniform": Initialiser(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias),
    "he": Initialiser(nn.initializers.he_normal(), partial(_constant_bias, 0)),
    "lecun": Initialiser(nn.initializers.lecun_normal(), partial(_constant_bias, 0)),  # flax's default
    "zeros": Initialiser(nn.initializers.zeros, partial(_constant_bias, 0)),
}

# The last two are for convolutions alone.
CONVOLUTIONS: Mapping[str, Initialiser] = {
    "uniform": INITIALISERS["uniform"],
    "he": INITIALISERS["he"],
    "lecun": INITIALISERS["lecun"],
    "he_fan_out": Initialiser(nn.initializers.variance_scaling(2, "fan_out", "normal"), partial(_constant_bias, 0)),
    "glorot": Initialiser(nn.initializers.variance_scaling(1, "fan_avg", "normal"), partial(_constant_bias, 0.1)),
}

# The codes that start convolutions so leave dense layers at PyTorch's default.
_BESIDE = {"he_fan_out": "uniform", "glorot": "uniform"}

UseBatchNorm = Annotated[bool, anything, "whether there is batch normalisation"]
Momentum = Annotated[float, below(0, 1), "share of the old running average that stays, 1 - PyTorch's momentum"]
Epsilon = Annotated[float, positive, "number added to the variance"]

ConvBias = Annotated[bool, anything, "whether convolutions have biases"]
ConvInit = Annotated[str, one_of(CONVOLUTIONS), "initial weights; he_fan_out and glorot leave dense layers uniform"]


def dense(
    inputs: int, features: int, initialiser: str, *, bias: bool = True, kernel: Callable | None = None
) -> nn.Dense:
    """A dense layer from `inputs` numbers, started by the named initialiser, or its weights by `kernel`."""
    start = INITIALISERS[_BESIDE.get(initialiser, initialiser)]
    bias_init = partial(start.bias, inputs)
    return nn.Dense(features, use_bias=bias, kernel_init=kernel or start.kernel, bias_init=bias_init)


def conv(
    channels: int,
    features: int,
    size: int,
    initialiser: str,
    *,
    stride: int = 1,
    padding: str | None = None,
    bias: bool = True,
) -> nn.Conv:
    """A convolution with square kernels, padded by ⌊size / 2⌋ on every side unless `padding` says otherwise."""
    start = CONVOLUTIONS[initialiser]
    half = (size // 2, size // 2)
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=padding or (half, half),
        use_bias=bias,
        kernel_init=start.kernel,
        bias_init=partial(start.bias, size * size * channels),
    )


class Normalisation(NamedTuple):
    """Activations less their mean over their standard deviation, by channel, then scaled and shifted; or left alone.

    *On progressive sharpening*, appendix A.1. In training mode mean and variance are those of the inputs, and
    derivatives go through them.
    """

    use: bool
    momentum: float
    epsilon: float

    def __call__(self, activations: jax.Array, train: bool) -> jax.Array:
        if not self.use:
            return activations
        layer = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_fast_variance=False,  # E[x²] - E[x]² cancels in single precision
        )
        return layer(activations)


class BatchNormLayer(nn.Module):
    """A batch-norm layer by itself, for what is said of the layer: *On progressive sharpening*, theorem A.1."""

    normalise: Normalisation

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        return self.normalise(inputs, train)


def residual_stages(
    activations: jax.Array, block: Callable[..., nn.Module], widths: Sequence[int], depths: Sequence[int], train: bool
) -> jax.Array:
    """`depths` blocks of `widths` features, stage by stage, each stage but the first starting with stride 2.

    A block is `block(features, stride)`.
    """
    for stage, (features, number) in enumerate(zip(widths, depths, strict=True)):
        for index in range(number):
            activations = block(features, 2 if stage and not index else 1)(activations, train)
    return activations


def require_images(model: str, inputs: jax.Array) -> int:
    """Refuse anything but images; their smaller side in pixels."""
    if inputs.ndim != 4:
        shape = list(inputs.shape[1:])
        raise InputError(f"{model} needs images [height, width, channels], got inputs of shape {shape}; use mlp")
    return min(inputs.shape[1:3])


def require_side(model: str, inputs: jax.Array, smallest: int, because: str, advice: str) -> None:
    """Refuse images with fewer than `smallest` pixels on a side, in one line that says what to do instead."""
    if require_images(model, inputs) < smallest:
        height, width = inputs.shape[1:3]
        raise InputError(
            f"{model} needs images of at least {smallest}x{smallest} {because}, got {height}x{width}; {advice}"
        )


def max_pool(activations: jax.Array) -> jax.Array:
    """The largest of every 2 x 2 activations; an odd last row or column is left out, as in PyTorch."""
    # Maxima over a reshaped array or over slices are no faster on a CPU: the gradient and the Hessian-vector product of
    # a VGG-11 take the same time within a few percent.
    return nn.max_pool(activations, (2, 2), (2, 2))
