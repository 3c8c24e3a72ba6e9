"""Deep linear networks: logits are a product of weight matrices and the input, w₃ w₂ w₁ x."""

from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import at_least, each, one_of
from hessflat.models.layers import INITIALISERS, dense


class DeepLinear(nn.Module):
    """Dense layers without biases and without activations."""

    num_classes: int
    hidden: tuple[int, ...]
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        activations = inputs.reshape(len(inputs), -1)
        for width in (*self.hidden, self.num_classes):
            activations = dense(activations.shape[-1], width, self.init_name, bias=False)(activations)
        return activations


def deep_linear(
    num_classes: int,
    *,
    hidden: Annotated[tuple[int, ...], each(at_least(1)), "width of each hidden layer"] = (10, 10),
    init: Annotated[str, one_of(INITIALISERS), "initial weights; uniform is PyTorch's default"] = "uniform",
) -> nn.Module:
    """The model of *Flatness is a False Friend*, §2: its w₁ w₂ w₃ X is `hidden=(1, 1)` with one output."""
    return DeepLinear(num_classes, hidden, init)
