"""What callers give, checked: trees of arrays, random keys, counts, numbers, options.

A check returns what it has checked, in the type that the code goes on with, or raises one line that says what was
expected, what came and what to do.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import leaves as given
from hessflat.curvature import numerics, tracing
from hessflat.utils.errors import InputError, nearest, shown

Tree = Any

# Why a measurement cannot be made inside a transformation.
OUTSIDE = (
    "a measurement looks at values, so make it outside jit, vmap and grad; inside them take products, op(v), alone"
)
# Why it cannot be made of an operator of shapes.
SHAPES = "this operator is made of shapes, for cv.plan alone; give arrays in their place to take products or measure"

# Draws of one estimate, at most.
_MOST_DRAWS = 1_000_000

# NumPy types that JAX has in every mode.
_PLAIN = {
    np.dtype(t) for t in (bool, np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32, np.float16, np.float32)
}


def as_arrays(what: str, tree: Tree, finite: bool = True, shapes: bool = False) -> Tree:
    """`tree` with JAX arrays as leaves.

    Args:
        what: how messages name the tree.
        tree: pytree of arrays of numbers, or of typed random keys.
        finite: refuse values that are not finite, and arrays without any.
        shapes: leave each `jax.ShapeDtypeStruct` as it is, with its sharding.

    Raises:
        InputError: no leaves, a leaf that is not an array of numbers, or values that are not finite.
    """
    if not jax.tree.leaves(tree):
        raise InputError(f"{what} must be a tree of arrays, got one without leaves: {_brief(tree)}")
    arrays = jax.tree.map_with_path(functools.partial(_as_array, what, shapes), tree)
    if finite and not any(leaf.size for leaf in jax.tree.leaves(arrays)):
        raise InputError(f"{what} must hold at least one number, got arrays of size 0")
    if finite and (lost := not_finite(what, arrays)):
        raise InputError(lost)
    return arrays


def not_finite(what: str, tree: Tree) -> str | None:
    """One line that names the first array of `tree` with values that are not finite; None where there is none."""
    known = [pair for pair in jax.tree.leaves_with_path(tree) if not tracing.any_shapes(pair[1])]
    named = [pair for pair in known if jnp.issubdtype(pair[1].dtype, jnp.inexact)]
    leaves = [leaf for _, leaf in named]
    if not tracing.any_traced(leaves) and all(leaf.devices() == {jax.devices("cpu")[0]} for leaf in leaves):
        flags: list[Any] = [np.isfinite(np.asarray(leaf)).all() for leaf in leaves]
    else:
        flags = _all_finite_on_devices(leaves)
    for (path, leaf), finite in zip(named, flags, strict=True):
        if not tracing.any_traced(finite) and not finite:
            count = int((~jnp.isfinite(leaf)).sum())
            return f"{_name(what, path)} must be finite, got {count} of {leaf.size} values that are not"
    return None


def as_state(state: Tree, function: Callable[..., Any]) -> tuple[Tree, ...]:
    """The third argument of the user's functions as () or (arrays,).

    An empty tree is a third argument for a function that takes one, and none for a function that does not.

    Args:
        state: None, or a pytree of arrays or numbers.
        function: one of those that take it.

    Raises:
        InputError: as `as_arrays`.
    """
    if state is None:
        return ()
    if jax.tree.leaves(state):
        numbers = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, bool | int | float | complex) else x, state)
        return (as_arrays("state", numbers, finite=False, shapes=True),)
    try:
        inspect.signature(function).bind(None, None, state)
    except TypeError:
        return ()
    except ValueError:  # a function without a signature
        pass
    return (state,)


def require_floating(what: str, tree: Tree, instead: str = "give floating point numbers") -> None:
    """Refuse leaves that cannot be differentiated.

    Args:
        what: how messages name the tree.
        tree: pytree of arrays or shapes.
        instead: what to do about integers and booleans.

    Raises:
        InputError: a leaf that is not real floating point.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            advice = given.not_differentiable(leaf.dtype, instead)
            raise InputError(f"{_name(what, path)} must be real floating point, got {leaf.dtype}; {advice}")


def same_structure(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same structure."""
    structures: tuple[Any, Any] = jax.tree.structure(a), jax.tree.structure(b)
    result: bool = structures[0] == structures[1]
    return result


def require_like(what: str, tree: Tree, like: Tree) -> None:
    """Refuse a `tree` with another structure, other shapes or other types than `like`.

    Raises:
        InputError: a difference; the message names the leaf.
    """
    if not same_structure(tree, like):
        raise InputError(f"{what} must have the structure {_brief(like)}, got {_brief(tree)}")
    for (path, leaf), expected in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(like), strict=True):
        if not hasattr(leaf, "dtype") and math.isnan(number_of(leaf)):
            raise InputError(f"{_name(what, path)} must have shape {expected.shape}, got {shown(leaf)}")
        if jnp.shape(leaf) != expected.shape:
            raise InputError(f"{_name(what, path)} must have shape {expected.shape}, got {jnp.shape(leaf)}")
    require_floating(what, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), jnp.result_type(leaf)), tree))


def _as_array(what: str, shapes: bool, path: Any, leaf: Any) -> Any:
    if shapes and isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=jax.dtypes.canonicalize_dtype(leaf.dtype))
    if not isinstance(leaf, jax.Array):
        plain = type(leaf) is np.ndarray and leaf.dtype in _PLAIN
        return numerics.on_device(leaf if plain else given.converted(_name(what, path), leaf))
    return numerics.on_device(leaf)


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


def require_probe(probe: str) -> None:
    """Refuse an unknown kind of probe."""
    require_option("probe", probe, ("rademacher", "gaussian"))


def require_option(what: str, value: Any, known: Collection[str]) -> None:
    """Refuse a value that is none of the `known` ones; the message names the nearest."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"unknown {what} {shown(value)}; {nearest(value, known)}")


def require_count(what: str, value: Any, least: int = 1) -> int:
    """A count of any integer type, NumPy's and JAX's too, as an int.

    Raises:
        InputError: no whole number, or one below `least`.
    """
    try:
        count = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        count = -1
    if count < least:
        raise InputError(f"{what} must be a whole number of at least {least}, got {shown(value)}")
    return count


def number_of(value: Any) -> float:
    """A real number of any type, NumPy's and JAX's too, as a float; nan for what is none, or none of a float's size."""
    try:
        is_number = not isinstance(value, bool | np.bool_ | str | bytes) and np.ndim(value) == 0
        return float(value) if is_number and not np.iscomplexobj(value) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def require_number(what: str, value: Any, above: float = -math.inf) -> float:
    """`number_of`.

    Raises:
        InputError: no number, or one that is not above `above`.
    """
    number = number_of(value)
    if not number > above:
        wanted = "a number" if above == -math.inf else f"above {above:g}"
        raise InputError(
            f"{what} must be {wanted}, got {shown(value)}{'; give a number' if math.isnan(number) else ''}"
        )
    return number


def require_flag(what: str, value: Any) -> bool:
    """True or False, also as 1 or 0.

    Raises:
        InputError: anything else, such as the text "False", which Python takes for true.
    """
    if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
        raise InputError(f"{what} must be True or False, got {shown(value)}")
    return bool(value)


def require_positions(what: str, values: Any) -> np.ndarray:
    """A sequence of finite real numbers as float64 [n].

    Raises:
        InputError: something else, or none.
    """
    try:
        positions = np.zeros(0) if np.iscomplexobj(values) else np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what} must be a sequence of numbers, got {shown(values)}") from None
    if positions.ndim != 1 or not len(positions) or not np.isfinite(positions).all():
        raise InputError(f"{what} must be finite numbers in one dimension, at least one, got {shown(values)}")
    return positions


def require_function(what: str, value: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        InputError: no function.
    """
    if not callable(value):
        raise InputError(f"{what} must be a function, got {shown(value)}")


def require_draws(what: str, value: Any, least: int = 1) -> int:
    """The number of random draws of an estimate, as an int.

    Raises:
        InputError: no whole number, one below `least`, or so many that they would never end.
    """
    count = require_count(what, value, least)
    if count > _MOST_DRAWS:
        raise InputError(
            f"{what} must be at most {_MOST_DRAWS:,}, got {count:,}; errors fall with its square root alone"
        )
    return count


def require_values(*trees: Tree) -> None:
    """Refuse what has no values because it is traced.

    Raises:
        InputError: a leaf inside a transformation.
    """
    if tracing.any_traced(trees):
        raise InputError(OUTSIDE)


def require_key(key: Array) -> None:
    """Refuse anything but one random key, typed or raw."""
    require_values(key)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = hasattr(key, "dtype") and key.dtype == jnp.uint32 and key.shape == (2,)
    if not ((typed and key.shape == ()) or raw):
        raise InputError(f"key must be one random key such as jax.random.key(0), got {type(key).__name__}")
