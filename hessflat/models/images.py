"""What convolutional networks ask of their inputs, and the pooling that they share."""

import jax
from flax import linen as nn

from hessflat.utils.errors import InputError


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
