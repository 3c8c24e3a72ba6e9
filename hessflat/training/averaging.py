"""The arithmetic mean of the iterates, and batch-norm statistics that belong to it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.models import Model


def include(average: Any, params: Any, count: Array) -> Any:
    """The mean of `count` iterates, from the mean of the `count` − 1 before and the newest; `count` below 1: none."""
    share = 1 / jnp.maximum(count, 1)
    return jax.tree.map(lambda mean, new: mean + share.astype(mean.dtype) * (new - mean), average, params)


def reestimated(model: Model, params: Any, statistics: Any, inputs: Array, batch_size: int) -> Any:
    """Running statistics for `params`: the mean over the training inputs of those of batches of `batch_size`.

    Those that training left behind belong to the iterates, not to their mean (*Flatness is a False Friend*, §5). The
    examples that fill no batch are left out, unless there is no whole batch.
    """
    size = min(batch_size, len(inputs))
    count = len(inputs) // size
    zeros, ones = jax.tree.map(jnp.zeros_like, statistics), jax.tree.map(jnp.ones_like, statistics)

    def updated(statistics: Any, start: Array | int) -> Any:
        return model.apply(params, statistics, jax.lax.dynamic_slice_in_dim(inputs, start, size), True)[1]

    def add(total: Any, start: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, updated(zeros, start)), None

    total = jax.lax.scan(add, zeros, size * jnp.arange(count))[0]
    # An updated average is decay · old + (1 − decay) · that of the batch, whatever the model's decay is.
    decay = jax.tree.map(jnp.subtract, updated(ones, 0), updated(zeros, 0))
    return jax.tree.map(lambda t, d: t / (count * (1 - d)), total, decay)
