"""Examples that do not count alike: the mean of a loss by weights of examples or tokens, batch by batch.

The loss of a batch is Σ m ℓ / Σ m over its own examples, that of all data is Σ m ℓ / Σ m over all of them. So the loss
of a batch is multiplied by its share of the weights over its share of the examples.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics
from hessflat.utils.errors import InputError, nearest

# What a function gives for a batch: something for each example, its mean over them, or a mean that it takes itself of a
# `Weighted` batch, where there are weights.
Returns = Literal["each", "mean", "weighted mean"]


class Weighted(NamedTuple):
    """A batch with its weights, scaled so that their sum over all data is the number of examples."""

    arrays: Any  # [n, ...]
    weights: Array  # [n], or [n, ...] with one for each token


def weighted(arrays: Any, weights: Any, sharding: Any = None) -> Weighted:
    """`arrays` with their weights.

    Args:
        arrays: pytree of arrays [N, ...].
        weights: an array [N, ...], or the name of one of `arrays`.
        sharding: where the weights are put; None leaves them where they are.

    Raises:
        InputError: an unknown name, another number of examples, values that are not finite, below 0, or 0 throughout.
    """
    if isinstance(weights, str):
        leaves = jax.tree.leaves_with_path(arrays)
        named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
        if weights not in named:
            raise InputError(f"no array of data is named {weights!r}; {nearest(weights, named)}")
        weights = named[weights]
    array, *others = jax.tree.leaves(numerics.as_arrays("weights", weights, shapes=True))
    if others or jnp.issubdtype(array.dtype, jnp.complexfloating):
        came = f"{1 + len(others)} arrays" if others else f"numbers of type {array.dtype}"
        raise InputError(f"weights must be one array of real numbers, got {came}")
    number = jax.tree.leaves(arrays)[0].shape[:1]
    if array.shape[:1] != number:
        raise InputError(f"weights must have the leading axis of data, {number}, got shape {array.shape}")
    if numerics.any_shapes(array):
        return Weighted(arrays, array.update(dtype=jnp.promote_types(array.dtype, jnp.float32)))
    if sharding is not None:
        array = jax.device_put(array, sharding)
    return normalised(Weighted(arrays, array))


def normalised(batch: Weighted) -> Weighted:
    """The batch with weights, in single precision at least, whose sum is its number of examples."""
    weights, least, most = _normalised(batch.weights)
    if not numerics.any_traced(weights):
        if float(least) < 0:
            raise InputError(f"weights must be at least 0, got {float(least):g}")
        if not float(most) > 0:
            raise InputError("weights must not be 0 throughout: there would be nothing to take a mean over")
    return Weighted(batch.arrays, weights)


# One program for all that is asked of weights, not one for each operation.
@jax.jit
def _normalised(weights: Array) -> tuple[Array, Array, Array]:
    """The weights times what makes their sum their number, the least and the largest of those that are given."""
    weights = numerics.widened(weights)
    return weights * (len(weights) / weights.sum()), weights.min(), weights.max()


@jax.jit
def _totals(weights: Array) -> tuple[Array, Array]:
    """The least weight of an example, and which example has the largest."""
    totals = weights.reshape(len(weights), -1).sum(axis=1)
    return totals.min(), jnp.argmax(totals)


def example_with_weight(batch: Weighted, always: bool = False) -> Any:
    """The example [1, ...] of the largest weight; None where all examples have weight, but for `always`.

    It replaces the examples of a batch without any weight, whose own loss would be 0 / 0. Of weights that are known by
    their shape alone none is taken to be 0.
    """
    if numerics.any_shapes(batch.weights):
        return None
    least, largest = _totals(batch.weights)
    if not always and not numerics.any_traced(least) and float(least) > 0:
        return None
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, largest, 1), batch.arrays)


def evaluate(
    function: Callable[..., Any], returns: Returns, x: Any, batch: Any, spare: Any, extra: tuple[Any, ...]
) -> Any:
    """`function(x, batch, *extra)`; a mean over a weighted batch is multiplied by the batch's share of the weights.

    Args:
        function: the user's, of parameters or outputs.
        returns: what it gives.
        x: parameters or outputs.
        batch: arrays [n, ...], or `Weighted` ones.
        spare: the result of `example_with_weight`.
        extra: the state, if there is one.
    """
    if not isinstance(batch, Weighted) or returns == "weighted mean":
        return function(x, batch, *extra)
    share = batch.weights.sum() / len(batch.weights)
    arrays = batch.arrays
    if spare is not None:
        arrays = jax.tree.map(lambda a, one: jnp.where(share > 0, a, jnp.broadcast_to(one, a.shape)), arrays, spare)
    result = function(x, arrays, *extra)
    return jax.tree.map(lambda r: share.astype(r.dtype) * r, result) if returns == "mean" else result


def weighted_mean(values: Array, batch: Any) -> Array:
    """The mean of `values` [n, ...], weighted where the batch is; its weights [n, ...] may have fewer axes."""
    if not isinstance(batch, Weighted):
        return jnp.mean(values)
    weights = batch.weights
    of_each = jnp.mean(values, axis=tuple(range(weights.ndim, values.ndim)))
    return jnp.sum(weights.astype(values.dtype) * of_each) / len(values)
