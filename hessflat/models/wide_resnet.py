"""Wide residual networks: 36,546,980 parameters for 28 layers, widening 10 and 100 classes.

Zagoruyko and Komodakis, 2016, without dropout, in the form of the code of Izmailov et al., *Averaging Weights*, 2018,
whose size *Flatness is a False Friend* gives: convolutions have biases, the second convolution of a block has its
stride, the shortcut's 1x1 convolution takes the block's inputs as they are, and weights start at PyTorch's default.
There the running averages of the last normalisation keep a share of 0.1 of the old ones and the others 0.9; here all
keep the same share.
"""

from functools import partial
from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import Rule, at_least
from hessflat.models.layers import (
    ConvBias,
    ConvInit,
    Epsilon,
    Momentum,
    Normalisation,
    UseBatchNorm,
    conv,
    dense,
    require_images,
    residual_stages,
)

_DEPTHS = Rule(lambda depth: depth >= 10 and depth % 6 == 4, "6 n + 4, such as 10, 16 or 28")


class WideBlock(nn.Module):
    """The inputs plus two 3x3 convolutions of them, each after normalisation and ReLU."""

    features: int
    stride: int
    conv_bias: bool
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        residual = inputs
        for stride in (1, self.stride):
            residual = nn.relu(self.normalise(residual, train))
            layer = conv(residual.shape[-1], self.features, 3, self.init_name, stride=stride, bias=self.conv_bias)
            residual = layer(residual)
        if self.stride != 1 or inputs.shape[-1] != self.features:
            shortcut = conv(inputs.shape[-1], self.features, 1, self.init_name, stride=self.stride, bias=self.conv_bias)
            inputs = shortcut(inputs)
        return inputs + residual


class WideResNet(nn.Module):
    """A convolution, three stages of blocks, the last two of which start with stride 2, the mean, and logits."""

    num_classes: int
    depth: int
    widening: int
    width: int
    conv_bias: bool
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        require_images("wide_resnet", inputs)
        activations = conv(inputs.shape[-1], self.width, 3, self.init_name, bias=self.conv_bias)(inputs)
        block = partial(WideBlock, conv_bias=self.conv_bias, normalise=self.normalise, init_name=self.init_name)
        first = self.width * self.widening
        depths = 3 * [(self.depth - 4) // 6]
        activations = residual_stages(activations, block, [first, 2 * first, 4 * first], depths, train)
        features = nn.relu(self.normalise(activations, train)).mean((1, 2))
        return dense(features.shape[-1], self.num_classes, self.init_name)(features)


def wide_resnet(
    num_classes: int,
    *,
    depth: Annotated[int, _DEPTHS, "layers with weights"] = 28,
    widening: Annotated[int, at_least(1), "channels of the first stage over those of the first convolution"] = 10,
    width: Annotated[int, at_least(1), "channels of the first convolution"] = 16,
    conv_bias: ConvBias = True,
    batch_norm: UseBatchNorm = True,
    bn_momentum: Momentum = 0.9,
    bn_epsilon: Epsilon = 1e-5,
    init: ConvInit = "uniform",
) -> nn.Module:
    """WideResNet-28x10 of *Flatness is a False Friend*, figures 6 and 7."""
    normalise = Normalisation(batch_norm, bn_momentum, bn_epsilon)
    return WideResNet(num_classes, depth, widening, width, conv_bias, normalise, init)
