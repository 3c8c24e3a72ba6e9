"""Parameter trees taken apart and put together: some leaves, or slices of leaves, and the rest."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.utils.errors import InputError

Tree = Any


def split(tree: Tree, chosen: Callable[[Any], bool]) -> tuple[Tree, Tree]:
    """The leaves whose path is `chosen`, and the others: two trees like `tree` with None elsewhere."""
    flags = jax.tree.map_with_path(lambda path, leaf: bool(chosen(path)), tree)
    inside = jax.tree.map(lambda leaf, flag: leaf if flag else None, tree, flags)
    outside = jax.tree.map(lambda leaf, flag: None if flag else leaf, tree, flags)
    return inside, outside


@functools.partial(jax.tree_util.register_dataclass, data_fields=["whole", "numbers"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Sliced:
    """A fixed array of which some layers, by their numbers along the first axis, are given elsewhere."""

    whole: Array  # [L, ...]
    numbers: Array  # [k]

    def with_layers(self, layers: Array) -> Array:
        """The array [L, ...] with these layers [k, ...]."""
        result: Array = self.whole.at[self.numbers].set(layers)
        return result


def merge(tree: Tree, rest: Tree) -> Tree:
    """The inverse of `split`; where `rest` has a `Sliced` array, `tree` has the other layers of it."""

    def whole(a: Any, b: Any) -> Any:
        if a is None:
            return b
        return b.with_layers(a) if isinstance(b, Sliced) else a

    return jax.tree.map(whole, tree, rest, is_leaf=lambda x: x is None)


def join_rests(first: Tree, second: Tree) -> Tree:
    """What is fixed by either of two trees. Layers that the second fixes of a `Sliced` array are put back into it."""

    def both(a: Any, b: Any) -> Any:
        if isinstance(a, Sliced) and b is not None:
            if isinstance(b, Sliced):
                raise InputError("choose the layers of a stack at once, not of a part of it again")
            return a.with_layers(b)
        return b if a is None else a

    return jax.tree.map(both, first, second, is_leaf=lambda x: x is None or isinstance(x, Sliced))


def select(tree: Tree, like: Tree) -> Tree:
    """The leaves of `tree` at the places where `like` has one, None elsewhere."""
    return jax.tree.map(lambda a, b: None if a is None else b, like, tree, is_leaf=lambda x: x is None)


def cast(tree: Tree, dtype: Any) -> Tree:
    """The floating leaves of `tree` as `dtype`; integers (labels) stay."""
    leaves, structure = jax.tree.flatten(tree)
    floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
    done = iter(_cast([x for x, is_floating in zip(leaves, floating, strict=True) if is_floating], dtype))
    both = zip(leaves, floating, strict=True)
    return jax.tree.unflatten(structure, [next(done) if is_floating else x for x, is_floating in both])


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _cast(leaves: list[Array], dtype: Any) -> list[Array]:
    return [leaf.astype(dtype) for leaf in leaves]
