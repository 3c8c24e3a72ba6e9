"""VGG for 32x32 images: 15,245,130 parameters for 16 layers and 10 classes, 8,448 more with batch normalisation.

Simonyan and Zisserman, 2015, with the narrow dense layers that codes for CIFAR use, and without dropout.
"""

from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import at_least, each, one_of, whole
from hessflat.models.layers import (
    ConvInit,
    Epsilon,
    Momentum,
    Normalisation,
    UseBatchNorm,
    conv,
    dense,
    max_pool,
    require_images,
    require_side,
)

# Convolutions of each stage by depth, which counts the three dense layers too.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Five stages of 3x3 convolutions with ReLU, each ended by max pooling; dense layers with ReLU; logits."""

    num_classes: int
    depth: int
    width: int
    head: tuple[int, ...]
    poolings: int
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        fit = require_images("vgg", inputs).bit_length() - 1
        because, advice = f"for {self.poolings} poolings", f"use model.vgg.poolings={fit}"
        require_side("vgg", inputs, 2**self.poolings, because, advice)
        activations = inputs
        for stage, convolutions in enumerate(_STAGES[self.depth]):
            for _ in range(convolutions):
                activations = conv(activations.shape[-1], self.width * min(2**stage, 8), 3, self.init_name)(activations)
                activations = nn.relu(self.normalise(activations, train))
            if stage < self.poolings:
                activations = max_pool(activations)
        flat = activations.reshape(len(inputs), -1)
        for width in self.head:
            flat = nn.relu(dense(flat.shape[-1], width, self.init_name)(flat))
        return dense(flat.shape[-1], self.num_classes, self.init_name)(flat)


def vgg(
    num_classes: int,
    *,
    depth: Annotated[int, one_of(_STAGES), "layers with weights, where the head has two"] = 16,
    width: Annotated[int, at_least(1), "channels of the first stage; the others have 2, 4, 8, 8 times as many"] = 64,
    head: Annotated[tuple[int, ...], each(at_least(1)), "width of each hidden dense layer"] = (512, 512),
    poolings: Annotated[int, whole(0, 5), "stages that end in pooling, from the first; 5 needs 32x32 images"] = 5,
    batch_norm: UseBatchNorm = True,
    bn_momentum: Momentum = 0.9,
    bn_epsilon: Epsilon = 1e-5,
    init: ConvInit = "he_fan_out",
) -> nn.Module:
    """VGG-16 of *Flatness is a False Friend*, §5, and VGG-11 of *On progressive sharpening*, §5 and §6."""
    normalise = Normalisation(batch_norm, bn_momentum, bn_epsilon)
    return VGG(num_classes, depth, width, head, poolings, normalise, init)
