"""AlexNet for 32x32 images, bare: five convolutions, three poolings, three dense layers, and nothing else.

What Krizhevsky et al., 2012, have beside these, dropout and local response normalisation, is left out. The channels
are those of the one-tower form (Krizhevsky, *One weird trick*, 2014). The first convolution, 11x11 with stride 4 for
images of 224x224, is 3x3 with stride 2 here, and pooling windows are 2x2.
"""

from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import at_least, each, whole
from hessflat.models.layers import ConvInit, conv, dense, max_pool, require_images, require_side

# Size, stride, channels in units of the first layer's, and whether pooling follows.
_LAYERS = ((3, 2, 1, True), (5, 1, 3, True), (3, 1, 6, False), (3, 1, 4, False), (3, 1, 4, True))


class AlexNet(nn.Module):
    """Convolutions with ReLU, max pooling after the first, second and fifth, dense layers with ReLU, logits."""

    num_classes: int
    width: int
    head: tuple[int, ...]
    poolings: int
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        fit = ((require_images("alexnet", inputs) + 1) // 2).bit_length() - 1
        because, advice = f"for a stride of 2 and {self.poolings} poolings", f"use model.alexnet.poolings={fit}"
        require_side("alexnet", inputs, 2 ** (self.poolings + 1) - 1, because, advice)
        activations, left = inputs, self.poolings
        for size, stride, factor, pooled in _LAYERS:
            layer = conv(activations.shape[-1], factor * self.width, size, self.init_name, stride=stride)
            activations = nn.relu(layer(activations))
            if pooled and left:
                activations, left = max_pool(activations), left - 1
        flat = activations.reshape(len(inputs), -1)
        for width in self.head:
            flat = nn.relu(dense(flat.shape[-1], width, self.init_name)(flat))
        return dense(flat.shape[-1], self.num_classes, self.init_name)(flat)


def alexnet(
    num_classes: int,
    *,
    width: Annotated[
        int, at_least(1), "channels of the first convolution; the others have 3, 6, 4, 4 times as many"
    ] = 64,
    head: Annotated[tuple[int, ...], each(at_least(1)), "width of each hidden dense layer"] = (4096, 4096),
    poolings: Annotated[int, whole(0, 3), "how many of the three poolings, from the first; 3 needs 15x15 images"] = 3,
    init: ConvInit = "uniform",
) -> nn.Module:
    """The model of *Empirical Analysis of the Hessian*, §4.1, which names it without its sizes."""
    return AlexNet(num_classes, width, head, poolings, init)
