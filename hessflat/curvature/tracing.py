"""Functions as JAX traces them: their jaxprs, the shapes of what they give, and what is traced or a shape alone."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessflat.utils import compat
from hessflat.utils.convolution import narrow_types
from hessflat.utils.errors import InputError, in_one_line

Tree = Any


def output_shapes(what: str, function: Callable[..., Any], *args: Tree) -> Tree:
    """Shapes and types of `function(*args)`, traced once for each function and shapes.

    Raises:
        InputError: the function raises an error, which the message quotes.
    """
    leaves, structure = jax.tree.flatten(args)
    try:
        return _traced(function, structure, shapes_and_types(leaves)).outputs
    except InputError:
        raise
    except Exception as error:  # any error of the user's function; the message names the function
        raise InputError(f"{what} cannot be evaluated: {in_one_line(error)}") from error


def is_narrow_program(function: Callable[..., Any], *args: Tree) -> bool:
    """Whether `function(*args)` computes in, or from, floating types of less than 32 bits."""
    leaves, structure = jax.tree.flatten(args)
    return _traced(function, structure, shapes_and_types(leaves)).is_narrow


def jaxpr_of(function: Callable[..., Any], *args: Tree) -> Any:
    """The jaxpr of `function(*args)`, traced once for each function and shapes.

    JAX keeps every jaxpr of `jax.make_jaxpr` for as long as the function lives.
    """
    leaves, structure = jax.tree.flatten(args)
    return _traced(function, structure, shapes_and_types(leaves)).jaxpr


def mapped(function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """`jax.vmap(function, in_axes)`, and a loop where a primitive of it has no rule for batches.

    Args:
        function: of arrays or trees of them.
        in_axes: 0 or None for each argument, or 0 for all.
    """

    def call(*args: Any) -> Any:
        try:
            return jax.vmap(function, in_axes=in_axes)(*args)
        except NotImplementedError:
            axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
            moving = tuple(arg for arg, axis in zip(args, axes, strict=True) if axis is not None)

            def one(moving: tuple[Any, ...]) -> Any:
                rest = iter(moving)
                return function(*(arg if axis is None else next(rest) for arg, axis in zip(args, axes, strict=True)))

            return jax.lax.map(one, moving)

    return call


def shapes_and_types(leaves: list[Any]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes and types of leaves, on which a compiled function depends."""
    wide = bool(compat.setting("jax_enable_x64"))
    return tuple(
        jax.ShapeDtypeStruct(leaf.shape, _result_type(leaf.dtype, wide))
        if hasattr(leaf, "dtype")
        else jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
        for leaf in leaves
    )


@functools.lru_cache(maxsize=256)
def _result_type(dtype: Any, wide: bool) -> Any:
    """The type that JAX gives arrays of `dtype`, in its 64-bit mode where that is `wide`; that of keys is their own."""
    return dtype if jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.result_type(dtype)


def any_traced(tree: Tree) -> bool:
    """Whether any leaf is traced."""
    return any(compat.is_traced(leaf) for leaf in jax.tree.leaves(tree))


def any_shapes(tree: Tree) -> bool:
    """Whether any leaf is a shape in place of an array."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


class _Traced(NamedTuple):
    """What a function computes: its jaxpr, the shapes and types of what it gives, and whether any is narrow."""

    jaxpr: Any
    outputs: Tree
    is_narrow: bool


@functools.lru_cache(maxsize=256)
def _traced(function: Callable[..., Any], structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> _Traced:
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(*jax.tree.unflatten(structure, shapes))
    return _Traced(closed.jaxpr, outputs, bool(narrow_types(closed.jaxpr.eqns, closed.jaxpr.invars)))
