"""Residual networks whose blocks normalise first: 1,726,388 parameters for 164 layers and 100 classes.

He et al., *Identity Mappings in Deep Residual Networks*, 2016, in the form of the code of Izmailov et al., *Averaging
Weights*, 2018, whose size *Flatness is a False Friend* gives: where shapes change, the 1x1 convolution of the shortcut
takes the block's inputs as they are, not normalised.
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

_EXPANSION = 4
_DEPTHS = Rule(lambda depth: depth >= 11 and depth % 9 == 2, "9 n + 2, such as 11, 110 or 164")


class Bottleneck(nn.Module):
    """The inputs plus three convolutions of them, 1x1, 3x3 and 1x1, each after normalisation and ReLU."""

    features: int
    stride: int
    conv_bias: bool
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        residual, wide = inputs, _EXPANSION * self.features
        for features, size, stride in ((self.features, 1, 1), (self.features, 3, self.stride), (wide, 1, 1)):
            residual = nn.relu(self.normalise(residual, train))
            layer = conv(residual.shape[-1], features, size, self.init_name, stride=stride, bias=self.conv_bias)
            residual = layer(residual)
        if self.stride != 1 or inputs.shape[-1] != wide:
            inputs = conv(inputs.shape[-1], wide, 1, self.init_name, stride=self.stride, bias=self.conv_bias)(inputs)
        return inputs + residual


class PreResNet(nn.Module):
    """A convolution, three stages of blocks, the last two of which start with stride 2, the mean, and logits."""

    num_classes: int
    depth: int
    width: int
    conv_bias: bool
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        require_images("preresnet", inputs)
        activations = conv(inputs.shape[-1], self.width, 3, self.init_name, bias=self.conv_bias)(inputs)
        block = partial(Bottleneck, conv_bias=self.conv_bias, normalise=self.normalise, init_name=self.init_name)
        widths, depths = [self.width, 2 * self.width, 4 * self.width], 3 * [(self.depth - 2) // 9]
        activations = residual_stages(activations, block, widths, depths, train)
        features = nn.relu(self.normalise(activations, train)).mean((1, 2))
        return dense(features.shape[-1], self.num_classes, self.init_name)(features)


def preresnet(
    num_classes: int,
    *,
    depth: Annotated[int, _DEPTHS, "layers with weights"] = 164,
    width: Annotated[
        int, at_least(1), "channels inside blocks of the first stage; the others have 2, 4 times as many"
    ] = 16,
    conv_bias: ConvBias = False,
    batch_norm: UseBatchNorm = True,
    bn_momentum: Momentum = 0.9,
    bn_epsilon: Epsilon = 1e-5,
    init: ConvInit = "he_fan_out",
) -> nn.Module:
    """PreResNet-164 of *Flatness is a False Friend*, figure 5, and PreResNet-110 of its appendix D."""
    return PreResNet(num_classes, depth, width, conv_bias, Normalisation(batch_norm, bn_momentum, bn_epsilon), init)
