"""Stages of blocks, as the residual families have them."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn


def residual_stages(
    activations: jax.Array, block: Callable[..., nn.Module], widths: Sequence[int], depths: Sequence[int], train: bool
) -> jax.Array:
    """`depths` blocks of `widths` features, stage by stage, each but the first starting with stride 2.

    To be called in a compact module, with `block(features, stride)`.
    """
    for stage, (features, number) in enumerate(zip(widths, depths, strict=True)):
        for index in range(number):
            activations = block(features, 2 if stage and not index else 1)(activations, train)
    return activations
