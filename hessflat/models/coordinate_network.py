"""A network of coordinates: numbers in, numbers out, with an activation narrow enough to fit high frequencies.

*On progressive sharpening*, appendix C.3. The paper gives neither widths nor the width σ of its Gaussian. The norm
that it reports of the first layer, 9.24 ± 0.26 for 256 uniform(±1) weights against its 9.09 ± 0.34, says 256.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn

from hessflat.config import at_least, each, one_of, positive
from hessflat.models.layers import INITIALISERS, dense


class CoordinateNetwork(nn.Module):
    """Dense layers with exp(-x² / 2σ²) or ReLU between them."""

    num_outputs: int
    hidden: tuple[int, ...]
    activation: str
    sigma: float
    first_std: float
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        activations = inputs.reshape(len(inputs), -1)
        for index, width in enumerate(self.hidden):
            kernel = nn.initializers.normal(self.first_std) if self.first_std and not index else None
            layer = dense(activations.shape[-1], width, self.init_name, kernel=kernel)
            activations = self._activate(layer(activations))
        return dense(activations.shape[-1], self.num_outputs, self.init_name)(activations)

    def _activate(self, x: jax.Array) -> jax.Array:
        return nn.relu(x) if self.activation == "relu" else jnp.exp(-((x / self.sigma) ** 2) / 2)


def coordinate_network(
    num_outputs: int,
    *,
    hidden: Annotated[tuple[int, ...], each(at_least(1)), "width of each hidden layer"] = (256, 256, 256),
    activation: Annotated[str, one_of(("gaussian", "relu")), "activation between the layers"] = "gaussian",
    sigma: Annotated[float, positive, "σ of the Gaussian exp(-x² / 2σ²)"] = 0.1,
    first_std: Annotated[
        float, at_least(0), "standard deviation of the first layer's normal weights; 0: they start like the others"
    ] = 0.0,
    init: Annotated[str, one_of(INITIALISERS), "initial weights; uniform is PyTorch's default"] = "uniform",
) -> nn.Module:
    """The four-layer model of *On progressive sharpening*, appendix C.3.

    With a Gaussian, the defaults start at high frequencies and `first_std=0.035`, whose norm over 256 weights is the
    paper's 0.56, at low ones. With ReLU the defaults start at low frequencies, and high ones are trained into it.
    """
    return CoordinateNetwork(num_outputs, hidden, activation, sigma, first_std, init)
