"""Random directions in parameter space, scaled so that landscapes of different networks can be compared."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature.numerics import probes, trees
from hessflat.utils.errors import InputError, nearest

Normalise = Literal["filter", "layer", "unit"]


class Direction(NamedTuple):
    """A direction and its scale."""

    vector: Any  # tree like params
    norm: float  # ‖vector‖
    normalise: str


def random_direction(key: Array, params: Any, normalise: Normalise = "filter") -> Direction:
    """A Gaussian direction, normalised (Li et al. 2018, *Visualizing the loss landscape of neural nets*, section 4).

    Args:
        key: a JAX random key.
        params: pytree of floating arrays.
        normalise: "filter" gives every filter of the direction the norm of the matching filter of `params`, so that
            the rescaling to which ReLU layers are blind changes nothing; a filter is what leads to one output, and
            the outputs are the last axis of an array, as in Flax kernels (an embedding's filters are its features).
            "layer" gives every array the norm of the matching array. In both, arrays of one axis or none (biases, the
            scales of norm layers) get zero, as in the paper. "unit" is uniform on the sphere of all parameters.

    Raises:
        InputError: an unknown normalisation, or one that leaves nothing: parameters of one axis or none, or all zero.
    """
    probes.require_key(key)
    known = ("filter", "layer", "unit")
    if normalise not in known:
        raise InputError(f"unknown normalisation {normalise!r}; {nearest(normalise, known)}")
    params = trees.as_arrays("params", params)
    trees.require_floating("params", params)
    vector, norm = _draw(key, params, normalise)
    if not norm > 0:
        raise InputError(
            f"normalise={normalise!r} leaves nothing of params, whose arrays of two axes or more are absent or zero; "
            "use normalise='unit'"
        )
    return Direction(vector, float(norm), normalise)


@partial(jax.jit, static_argnames="normalise")
def _draw(key: Array, params: Any, normalise: Normalise) -> tuple[Any, Array]:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    if normalise != "unit":
        noise = [_matched(d, w, normalise) for d, w in zip(noise, leaves, strict=True)]
    norm = jnp.linalg.norm(jnp.stack([_norm(d) for d in noise]))
    if normalise == "unit":
        noise, norm = [d / norm.astype(d.dtype) for d in noise], jnp.ones_like(norm)
    return jax.tree.unflatten(structure, noise), norm


def _matched(direction: Array, weights: Array, normalise: Normalise) -> Array:
    if weights.ndim < 2:
        return jnp.zeros_like(weights)
    axes = tuple(range(weights.ndim - 1)) if normalise == "filter" else None
    ratio = _norm(weights, axes) / _norm(direction, axes)
    return jnp.broadcast_to(ratio, direction.shape).astype(direction.dtype) * direction


def _norm(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    # A sum of many squares needs more digits than half precision has.
    squares = x.astype(jnp.promote_types(x.dtype, jnp.float32)) ** 2
    return jnp.sqrt(jnp.sum(squares, axis=axes, keepdims=axes is not None))
