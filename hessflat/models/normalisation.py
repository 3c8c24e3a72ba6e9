"""Batch normalisation, the same in every family: *On progressive sharpening*, appendix A.1.

Running averages are kept as in PyTorch but for one thing: flax averages the variance of the batch as it is, PyTorch
its unbiased estimate, larger by n / (n - 1) with n the number of activations of a channel.
"""

from typing import Annotated, NamedTuple

import jax
from flax import linen as nn

from hessflat.config.validators import anything, below, positive

UseBatchNorm = Annotated[bool, anything, "whether there is batch normalisation"]
Momentum = Annotated[float, below(0, 1), "share of the old running average that stays, 1 - PyTorch's momentum"]
Epsilon = Annotated[float, positive, "added to the variance"]


class Normalisation(NamedTuple):
    """Activations less their mean over their standard deviation, by channel, then scaled and shifted; or left alone.

    To be called inside a compact module. In training mode mean and variance are those of the inputs, and derivatives
    go through them.
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
