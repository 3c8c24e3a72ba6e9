"""Two convolutions and two dense layers: 21,840 parameters on 28x28x1 images of 10 classes."""

from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import at_least, one_of
from hessflat.models.layers import ConvInit, conv, dense, max_pool, require_side


class TwoConvolutions(nn.Module):
    """Convolution, ReLU and 2 x 2 max pooling, twice; a dense layer with ReLU; logits."""

    num_classes: int
    width: int
    kernel: int
    hidden: int
    padding: str
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        self._check_size(inputs)
        activations = inputs
        for features in (self.width, 2 * self.width):
            layer = conv(activations.shape[-1], features, self.kernel, self.init_name, padding=self.padding.upper())
            activations = layer(activations)
            activations = max_pool(nn.relu(activations))
        flat = activations.reshape(len(inputs), -1)
        hidden = nn.relu(dense(flat.shape[-1], self.hidden, self.init_name)(flat))
        return dense(hidden.shape[-1], self.num_classes, self.init_name)(hidden)

    def _check_size(self, inputs: jax.Array) -> None:
        if self.padding == "valid":
            smallest, advice = 3 * self.kernel + 1, "use model.two_convolutions.padding=same"
        else:
            smallest, advice = 4, "use mlp"
        because = f"for kernels of {self.kernel} with {self.padding} padding and two poolings"
        require_side("two_convolutions", inputs, smallest, because, advice)


def two_convolutions(
    num_classes: int,
    *,
    width: Annotated[int, at_least(1), "channels of the first convolution; the second has twice as many"] = 10,
    kernel: Annotated[int, at_least(1), "pixels on a side of a kernel"] = 5,
    hidden: Annotated[int, at_least(1), "width of the hidden dense layer"] = 50,
    padding: Annotated[
        str, one_of(("valid", "same")), "padding; valid: none; same: convolutions keep the size"
    ] = "valid",
    init: ConvInit = "uniform",
) -> nn.Module:
    """The model of *Empirical Analysis of the Hessian*, §3.3.

    The paper gives the kinds of the layers alone; these sizes are those of PyTorch's example for MNIST of its time.
    """
    return TwoConvolutions(num_classes, width, kernel, hidden, padding, init)
