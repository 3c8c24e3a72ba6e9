"""Trees of parameters seen as flat vectors, and the checks that both are what a measurement expects."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.utils import compat
from hessflat.utils.errors import InputError

Tree = Any


def dtype_of(tree: Tree) -> jnp.dtype:
    """The one floating type that a flat vector over `tree` has."""
    return jnp.result_type(*jax.tree.leaves(tree))


def flatten(tree: Tree) -> Array:
    """Every leaf, ravelled, one after the other: [P]."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unflatten(like: Tree, vector: Array) -> Tree:
    """The inverse of `flatten`. `vector` may have leading axes, [..., P], which every leaf then keeps."""
    leaves, structure = jax.tree.flatten(like)
    parts, start = [], 0
    for leaf in leaves:
        part = vector[..., start : start + leaf.size]
        parts.append(part.reshape(*vector.shape[:-1], *leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(structure, parts)


def split(tree: Tree, chosen: Callable[[Any], bool]) -> tuple[Tree, Tree]:
    """The leaves whose path is `chosen`, and the others: trees like `tree` with None in the other's places."""
    flags = jax.tree.map_with_path(lambda path, leaf: bool(chosen(path)), tree)
    inside = jax.tree.map(lambda leaf, flag: leaf if flag else None, tree, flags)
    outside = jax.tree.map(lambda leaf, flag: None if flag else leaf, tree, flags)
    return inside, outside


def merge(tree: Tree, rest: Tree) -> Tree:
    """The inverse of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, tree, rest, is_leaf=lambda x: x is None)


def select(tree: Tree, like: Tree) -> Tree:
    """The leaves of `tree` at the places where `like` has one, None elsewhere."""
    return jax.tree.map(lambda a, b: None if a is None else b, like, tree, is_leaf=lambda x: x is None)


def cast(tree: Tree, dtype: Any) -> Tree:
    """The floating leaves of `tree` as `dtype`; integers (labels) stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def as_arrays(what: str, tree: Tree) -> Tree:
    """`tree` with JAX arrays as leaves; anything that is not an array, or not finite, is refused."""
    if not jax.tree.leaves(tree):
        raise InputError(f"{what} must be a tree of arrays, got one without leaves: {_brief(tree)}")
    arrays = jax.tree.map_with_path(functools.partial(_as_array, what), tree)
    leaves = jax.tree.leaves_with_path(arrays)
    for (path, leaf), finite in zip(leaves, _all_finite([leaf for _, leaf in leaves]), strict=True):
        if not is_traced(finite) and not finite:
            count = int((~jnp.isfinite(leaf)).sum())
            raise InputError(f"{_name(what, path)} must be finite, got {count} of {leaf.size} values that are not")
    return arrays


def require_floating(what: str, tree: Tree) -> None:
    """Derivatives are taken in these, so integers and complex numbers are refused."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(f"{_name(what, path)} must be real floating point, got {leaf.dtype}; cast it")


def same_structure(a: Tree, b: Tree) -> bool:
    """Whether two trees differ in their leaves only."""
    structures: tuple[Any, Any] = jax.tree.structure(a), jax.tree.structure(b)
    result: bool = structures[0] == structures[1]
    return result


def require_like(what: str, tree: Tree, like: Tree) -> None:
    """Refuse a `tree` whose structure, shapes or types are not those of `like`."""
    if not same_structure(tree, like):
        raise InputError(f"{what} must have the structure {_brief(like)}, got {_brief(tree)}")
    for (path, leaf), expected in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(leaf) != expected.shape:
            raise InputError(f"{_name(what, path)} must have shape {expected.shape}, got {jnp.shape(leaf)}")
    require_floating(what, jax.tree.map(jnp.asarray, tree))


def output_of(what: str, function: Callable[..., Any], *args: Tree) -> Tree:
    """Shapes and types of `function(*args)`, traced once per function and shapes."""
    leaves, structure = jax.tree.flatten(args)
    try:
        return _output_of(function, structure, shapes_of(leaves))
    except InputError:
        raise
    except Exception as error:  # whatever the user's function raises, said in a line that names the function
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{what} cannot be evaluated: {type(error).__name__}: {reason}") from error


def shapes_of(leaves: list[Any]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """What a compiled function depends on, and nothing else."""
    return tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


def is_traced(tree: Tree) -> bool:
    """Whether any leaf stands for a value that is not known yet."""
    return any(compat.is_traced(leaf) for leaf in jax.tree.leaves(tree))


@functools.lru_cache(maxsize=256)
def _output_of(function: Callable[..., Any], structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Tree:
    return jax.eval_shape(function, *jax.tree.unflatten(structure, shapes))


def _as_array(what: str, path: Any, leaf: Any) -> Array:
    if isinstance(leaf, jax.ShapeDtypeStruct) or not hasattr(leaf, "dtype"):
        raise InputError(f"{_name(what, path)} must be an array, got {type(leaf).__name__}")
    return jnp.asarray(leaf, dtype=jax.dtypes.canonicalize_dtype(leaf.dtype))


def _all_finite(leaves: list[Array]) -> list[Any]:
    if not is_traced(leaves) and all(x.devices() == {jax.devices("cpu")[0]} for x in leaves):
        return [np.isfinite(np.asarray(leaf)).all() for leaf in leaves]
    result: list[Any] = _all_finite_on_devices(leaves)
    return result


# One program for all leaves: one for each would take longer to compile than many a measurement does.
@jax.jit
def _all_finite_on_devices(leaves: list[Array]) -> list[Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def _name(what: str, path: Any) -> str:
    return f"{what}{jax.tree_util.keystr(path)}"


def _brief(tree: Tree) -> str:
    """The structure of a tree on one line, cut where it gets long."""
    text = str(jax.tree.structure(tree)).removeprefix("PyTreeDef(").removesuffix(")")
    return text if len(text) <= 120 else text[:117] + "..."
