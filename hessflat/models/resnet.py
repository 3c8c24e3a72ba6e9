"""ResNet in its form for CIFAR: 11,173,962 parameters for 18 layers and 10 classes.

He et al., *Deep Residual Learning*, 2015, with a 3x3 convolution in place of the first 7x7 with stride 2, and without
the pooling after it.
"""

from functools import partial
from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import at_least, one_of
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

# Blocks of each stage by depth.
_STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """ReLU of the inputs plus two 3x3 convolutions of them; a 1x1 convolution fits the inputs where shapes change."""

    features: int
    stride: int
    conv_bias: bool
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        def convolved(activations: jax.Array, size: int, stride: int) -> jax.Array:
            layer = conv(activations.shape[-1], self.features, size, self.init_name, stride=stride, bias=self.conv_bias)
            activations = layer(activations)
            return self.normalise(activations, train)

        residual = convolved(nn.relu(convolved(inputs, 3, self.stride)), 3, 1)
        if self.stride != 1 or inputs.shape[-1] != self.features:
            inputs = convolved(inputs, 1, self.stride)
        return nn.relu(inputs + residual)


class ResNet(nn.Module):
    """A convolution, four stages of blocks, the last three of which start with stride 2, the mean, and logits."""

    num_classes: int
    depth: int
    width: int
    conv_bias: bool
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        require_images("resnet", inputs)
        stem = conv(inputs.shape[-1], self.width, 3, self.init_name, bias=self.conv_bias)(inputs)
        activations = nn.relu(self.normalise(stem, train))
        block = partial(BasicBlock, conv_bias=self.conv_bias, normalise=self.normalise, init_name=self.init_name)
        widths = [self.width, 2 * self.width, 4 * self.width, 8 * self.width]
        activations = residual_stages(activations, block, widths, _STAGES[self.depth], train)
        features = activations.mean((1, 2))
        return dense(features.shape[-1], self.num_classes, self.init_name)(features)


def resnet(
    num_classes: int,
    *,
    depth: Annotated[int, one_of(_STAGES), "layers with weights"] = 18,
    width: Annotated[int, at_least(1), "channels of the first stage; the others have 2, 4, 8 times as many"] = 64,
    conv_bias: ConvBias = False,
    batch_norm: UseBatchNorm = True,
    bn_momentum: Momentum = 0.9,
    bn_epsilon: Epsilon = 1e-5,
    init: ConvInit = "uniform",
) -> nn.Module:
    """ResNet-18 of *On progressive sharpening*, §5 and §6."""
    return ResNet(num_classes, depth, width, conv_bias, Normalisation(batch_norm, bn_momentum, bn_epsilon), init)
