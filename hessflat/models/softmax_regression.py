"""Softmax regression, the network without hidden layers: 784 inputs and 10 classes give 7,850 parameters."""

from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import one_of
from hessflat.models.layers import INITIALISERS, dense


class SoftmaxRegression(nn.Module):
    """Logits are an affine function of the flattened input."""

    num_classes: int
    init_name: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        flat = inputs.reshape(len(inputs), -1)
        return dense(flat.shape[-1], self.num_classes, self.init_name)(flat)


def softmax_regression(
    num_classes: int,
    *,
    init: Annotated[str, one_of(INITIALISERS), "initial weights; uniform is PyTorch's default"] = "uniform",
) -> nn.Module:
    """The model of *Flatness is a False Friend*, figure 2."""
    return SoftmaxRegression(num_classes, init)
