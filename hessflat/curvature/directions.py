"""Normalised random directions in parameter space.

Which axis of an array leads to outputs, and which is a stack of layers, is a matter of its library: of Flax and
Equinox it is known, of others it is said, and not read off the number of axes.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from hessflat.curvature import numerics
from hessflat.curvature.operators.blocks import Names, leaf_name, stack_lengths, stacks_by_shape
from hessflat.curvature.records import record
from hessflat.utils import hardware
from hessflat.utils.errors import InputError, shown

Normalise = Literal["filter", "layer", "unit"]


@record(lambda self: f"a direction, normalised by {self.normalise}", {"norm": "norm"})
class Direction(NamedTuple):
    """A direction and its scale."""

    vector: Any  # tree like params
    norm: float  # ‖vector‖
    normalise: str  # by what its parts were scaled


def random_direction(
    key: Array,
    params: Any,
    normalise: Normalise = "filter",
    output_axis: int | Callable[[str], int] | None = None,
    stacked: Names | None = None,
) -> Direction:
    """A normalised Gaussian direction (Li et al. 2018, *Visualizing the loss landscape of neural nets*, section 4).

    Args:
        key: a JAX random key.
        params: pytree of floating arrays.
        normalise: "filter" gives every filter of the direction the norm of the corresponding filter of `params`, so
            that results are invariant to the rescaling symmetry of ReLU layers. A filter is the set of weights to one
            output. "layer" gives every array the norm of the corresponding array. In both, arrays of at most one axis
            (biases, the scales of norm layers) get zero, as in the paper. "unit" is uniform on the unit sphere of all
            parameters.
        output_axis: the axis of an array that leads to outputs, not counting a stack axis, or a function of the path
            of a leaf that gives it. None is the last axis, as in Flax kernels and embeddings, and the axis of Equinox's
            own layers, which is the first but for embeddings.
        stacked: the leaves whose first axis is a stack of layers or of networks, as in `restrict`: each has filters, or
            a norm, of its own. None takes for stacks what has a bias of two axes, [L, out], beside weights
            [L, ..., in, out], and warns of it; () says that there are none.

    Raises:
        InputError: an unknown normalisation, an axis that an array does not have, or one that has to be said; a
            direction that would be zero: all parameters have at most one axis, or are zero.
    """
    numerics.require_key(key)
    numerics.require_option("normalisation", normalise, ("filter", "layer", "unit"))
    params = numerics.as_arrays("params", params)
    numerics.require_floating("params", params, "give those leaves alone that are to move")
    numerics.require_values(params, jnp.zeros(()))
    stacks = stacks_by_shape(params) if stacked is None else stack_lengths(params, stacked)
    if stacked is None and stacks and normalise != "unit":
        names, lengths = ", ".join(map(repr, stacks)), " and ".join(map(str, sorted(set(stacks.values()))))
        warnings.warn(
            f"params {names} are taken for stacks of {lengths} along their first axis; say stacked=... which are, or "
            "stacked=() if none is",
            stacklevel=2,
        )
    axes = tuple(
        _kept_axes(params, path, leaf, normalise, output_axis, stacks)
        for path, leaf in jax.tree.leaves_with_path(params)
    )
    vector, norm = _gaussian(key, params, normalise, axes)
    if not norm > 0:
        raise InputError(
            f"normalise={normalise!r} leaves nothing of params, whose arrays of two axes or more are absent or zero; "
            "use normalise='unit'"
        )
    return Direction(vector, norm, normalise)


def _kept_axes(
    params: Any, path: Any, leaf: Array, normalise: Normalise, output_axis: Any, stacks: dict[str, int]
) -> tuple[int, ...] | None:
    """The axes along which an array has norms of their own; None for an array that does not move."""
    name = leaf_name(path)
    stack = (0,) if name in stacks else ()
    rank = leaf.ndim - len(stack)
    if normalise == "unit":
        return ()
    if rank < 2:
        return None
    if normalise == "layer":
        return stack
    axis = output_axis(name) if callable(output_axis) else output_axis
    if axis is None:
        axis = _known_output_axis(params, path)
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer) or not -rank <= axis < rank:
        raise InputError(f"output_axis must be one of the {rank} axes of params {name!r}, got {shown(axis)}")
    return (*stack, int(axis) % rank + len(stack))


def _known_output_axis(params: Any, path: Any) -> int:
    """The axis that leads to outputs, by what holds the array.

    Raises:
        InputError: an array of a module of the user's own, or one named as in PyTorch.
    """
    holder, node = None, params
    for key in path:
        if any(base.__module__.startswith("equinox.") for base in type(node).__mro__):
            holder = node
        try:
            node = (
                getattr(node, key.name) if hasattr(key, "name") else node[getattr(key, "key", getattr(key, "idx", 0))]
            )
        except (AttributeError, IndexError, KeyError, TypeError):  # a container of another kind
            break
    if holder is not None and type(holder).__module__.startswith("equinox."):
        return -1 if type(holder).__name__ == "Embedding" else 0
    name = leaf_name(path)
    if holder is not None or name.replace(".", "/").rpartition("/")[2] == "weight":
        raise InputError(
            f"the output axis of params {name!r} is not known; say output_axis=0 for weights [out, in], as of PyTorch "
            "and Equinox, or output_axis=-1 for [in, out]"
        )
    return -1


def _gaussian(
    key: Array, params: Any, normalise: Normalise, axes: tuple[tuple[int, ...] | None, ...]
) -> tuple[Any, float]:
    """The direction and its norm. NumPy draws and scales it: a program for all leaves takes seconds to compile.

    It does so leaf by leaf, so that the host never holds them all; a unit direction, whose norm comes first, is drawn
    twice.
    """
    leaves, structure = jax.tree.flatten(params)
    seed = np.asarray(jax.random.key_data(key)).tolist()
    if normalise == "unit":
        norm = float(np.linalg.norm([np.linalg.norm(d) for d in _drawn(seed, leaves)]))
        vector = [_placed(d / norm, leaf) for d, leaf in zip(_drawn(seed, leaves), leaves, strict=True)]
        return jax.tree.unflatten(structure, vector), 1.0
    vector, norms = [], []
    for noise, leaf, kept in zip(_drawn(seed, leaves), leaves, axes, strict=True):
        direction = _matched(noise, hardware.on_host(leaf).astype(np.float64), kept)
        norms.append(np.linalg.norm(direction))
        vector.append(_placed(direction, leaf))
    return jax.tree.unflatten(structure, vector), float(np.linalg.norm(norms))


def _drawn(seed: list[int], leaves: Sequence[Array]) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(leaf.shape) for leaf in leaves)


def _matched(direction: np.ndarray, weights: np.ndarray, kept: tuple[int, ...] | None) -> np.ndarray:
    if kept is None:
        return np.zeros_like(weights)
    axes = tuple(axis for axis in range(weights.ndim) if axis not in kept)
    lengths = (np.sqrt(np.sum(x**2, axis=axes, keepdims=True)) for x in (weights, direction))
    result: np.ndarray = np.divide(*lengths) * direction
    return result


def _placed(direction: np.ndarray, like: Array) -> Array:
    """`direction` in the type of `like`, and spread over devices as it is."""
    array = direction.astype(like.dtype)
    if not isinstance(like.sharding, NamedSharding):
        return jnp.asarray(array)
    placed: Array = hardware.placed(array, like.sharding)
    return placed
