"""All-CNN-C, nine convolutions and no other layer with weights: 1,387,108 parameters with 100 classes.

Springenberg et al., *Striving for Simplicity*, 2015, without its dropout. That number is the one that *Flatness is a
False Friend* gives for its nine-layer network.
"""

from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import at_least, one_of
from hessflat.models.layers import ConvInit, conv, require_side


class CNN9(nn.Module):
    """Convolutions with ReLU, two of them with stride 2, and logits averaged over the image.

    ReLU follows the last convolution too, so that logits are never negative.
    """

    num_classes: int
    width: int
    last_padding: str
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        require_side(
            "cnn9",
            inputs,
            9 if self.last_padding == "valid" else 1,
            "for its unpadded convolution at a quarter of the size",
            "use model.cnn9.last_padding=same",
        )
        narrow, wide, last = self.width, 2 * self.width, self.last_padding.upper()
        layers = (
            (narrow, 3, 1, "SAME"),
            (narrow, 3, 1, "SAME"),
            (narrow, 3, 2, "SAME"),
            (wide, 3, 1, "SAME"),
            (wide, 3, 1, "SAME"),
            (wide, 3, 2, "SAME"),
            (wide, 3, 1, last),
            (wide, 1, 1, "SAME"),
            (self.num_classes, 1, 1, "SAME"),
        )
        activations = inputs
        for features, size, stride, padding in layers:
            layer = conv(activations.shape[-1], features, size, self.init_name, stride=stride, padding=padding)
            activations = nn.relu(layer(activations))
        return activations.mean((1, 2))


def cnn9(
    num_classes: int,
    *,
    width: Annotated[
        int, at_least(1), "channels of the first three convolutions; the next five have twice as many"
    ] = 96,
    last_padding: Annotated[
        str, one_of(("valid", "same")), "padding of the last 3x3 convolution; valid, as published, needs 9x9 images"
    ] = "valid",
    init: ConvInit = "glorot",
) -> nn.Module:
    """The model of *Flatness is a False Friend*, figure 4."""
    return CNN9(num_classes, width, last_padding, init)
