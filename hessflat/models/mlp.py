"""Multi-layer perceptrons: 784-100-10 has 79,510 parameters, 64-100-10 has 7,510."""

from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn

from hessflat.config import at_least, each, one_of
from hessflat.models.layers import INITIALISERS, Epsilon, Momentum, Normalisation, UseBatchNorm, dense

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "gaussian": lambda x: jnp.exp(-(x**2) / 2),
}


class MLP(nn.Module):
    """Dense layers with an activation between them, or batch normalisation and an activation."""

    num_classes: int
    hidden: tuple[int, ...]
    activation: str
    normalise: Normalisation
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        activations = inputs.reshape(len(inputs), -1)
        for width in self.hidden:
            activations = self.normalise(dense(activations.shape[-1], width, self.init_name)(activations), train)
            activations = ACTIVATIONS[self.activation](activations)
        return dense(activations.shape[-1], self.num_classes, self.init_name)(activations)


def mlp(
    num_classes: int,
    *,
    hidden: Annotated[tuple[int, ...], each(at_least(1)), "width of each hidden layer"] = (100,),
    activation: Annotated[str, one_of(ACTIVATIONS), "activation between the layers"] = "relu",
    init: Annotated[str, one_of(INITIALISERS), "initial weights; uniform is PyTorch's default"] = "uniform",
    batch_norm: UseBatchNorm = False,
    bn_momentum: Momentum = 0.9,
    bn_epsilon: Epsilon = 1e-5,
) -> nn.Module:
    """The model of *Flatness is a False Friend*, figure 3, with any widths."""
    return MLP(num_classes, hidden, activation, Normalisation(batch_norm, bn_momentum, bn_epsilon), init)
