"""Curvature with respect to some of the parameters: diagonal blocks of a curvature matrix.

Paths are keys joined by "/", as `dense_0/kernel`. Where a leaf holds the weights of several layers or networks along a
stack axis, as `lax.scan` over layers and `vmap` over an ensemble have them, the path of one of them ends with its
number, as `layers/kernel/2`.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.curvature import numerics, trees
from hessflat.curvature.operators.matrices import matvec_product
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Scaling, Term, multiplied
from hessflat.curvature.trees import Sliced
from hessflat.utils.errors import InputError, nearest, shown

Names = str | Sequence[str] | Callable[[str], bool]
Path = tuple[Any, ...]


def restrict(op: Operator, names: Names, stacked: Names = ()) -> Operator:
    """The diagonal block of `op` for some leaves of the parameters, with the others fixed.

    Vectors are trees like `params` with None in place of the other leaves; a leaf of which some layers are chosen keeps
    its stack axis, with those layers. Only what is chosen is differentiated, so a product is cheaper than one with the
    whole matrix. Leaves that are not chosen may be of any type.

    Args:
        op: an operator of one of the curvature matrices, or of several.
        names: a pattern such as `"dense_0/*"` or `"*/kernel"` for paths; several patterns; or a function of a path. A
            pattern that matches no leaf and ends with a number, such as `"layers/*/2"`, means that number along the
            first axis.
        stacked: the leaves whose first axis is a stack, in the same form; `names` then sees the path of every layer.

    Raises:
        InputError: a pattern that no path matches; the message names the nearest.
    """
    _require_operator(op)
    leaves = _named_leaves(op.params)
    stacks = _stacks(leaves, stacked)
    if callable(names):
        chosen = {unit for unit in _units(leaves, stacks) if names(_text(unit))}
        if not chosen:
            raise InputError(f"no leaf of params was chosen; the paths are {', '.join(leaves)}")
        return _chosen(op, chosen, stacks)
    chosen = set()
    for pattern in _patterns("names", names):
        head, _, number = pattern.rpartition("/")
        known = _units(leaves, stacks)
        matching = {unit for unit in known if fnmatch.fnmatchcase(_text(unit), pattern) or unit[0] == pattern}
        # A pattern for a whole leaf chooses all of its layers.
        matching |= {unit for unit in known if unit[1] is not None and fnmatch.fnmatchcase(unit[0], pattern)}
        if not matching and number.isdecimal() and head:
            deep = {name for name in fnmatch.filter(leaves, head) if _length(leaves[name]) > int(number)}
            stacks |= {name: _length(leaves[name]) for name in deep}
            matching = {(name, int(number)) for name in deep}
        if not matching:
            raise InputError(f"no leaf of params matches {pattern!r}; {nearest(pattern, map(_text, known))}")
        chosen |= matching
    if not chosen:
        raise InputError(f"names must choose a leaf of params; the paths are {', '.join(leaves)}")
    # Beside a layer of it, a leaf that is chosen whole is all of its layers.
    whole = {name for name, number in chosen if number is None and name in stacks}
    chosen = {unit for unit in chosen if unit[0] not in whole} | {(n, i) for n in whole for i in range(stacks[n])}
    return _chosen(op, chosen, stacks)


def blocks(
    op: Operator,
    by: int | str | Sequence[str] | Mapping[str, Names] | Callable[[str], str | None] | None = None,
    stacked: Names = (),
) -> dict[str, Operator]:
    """{name: diagonal block}, in the order of the parameters.

    Args:
        op: an operator of one of the curvature matrices, or of several.
        by: None gives one block a layer, which is what holds arrays: `layers/0`, `params/dense_0`. Arrays beside
            layers, and arrays at the top, are blocks of their own. A number gives one block for every beginning of
            paths of that many keys, not counting those that all paths share. A pattern, or several, gives one block for
            every beginning that matches, such as `"params/block_*"` or `"layers/*/attention"`. A dict gives blocks by
            name, each chosen as by `restrict`. A function gives the name of the block of a path, or None for no block.
        stacked: the leaves whose first axis is a stack, as in `restrict`: every layer is a block of its own, and its
            name ends with its number.

    Raises:
        InputError: a pattern that nothing matches, or a number of keys below 1.
    """
    _require_operator(op)
    leaves = _named_leaves(op.params)
    stacks = _stacks(leaves, stacked)
    if isinstance(by, Mapping):
        if not by:
            raise InputError(f"by must name at least one block; the paths of params are {', '.join(leaves)}")
        return {name: restrict(op, names, stacked) for name, names in by.items()}
    name_of = by if callable(by) else _naming(leaves, by)
    groups: dict[str, set[Unit]] = {}
    for unit in _units(leaves, stacks):
        name = name_of(_text(unit) if callable(by) else unit[0])
        if name is not None:
            key = name if callable(by) or unit[1] is None else f"{name}/{unit[1]}"
            groups.setdefault(key, set()).add(unit)
    if not groups:
        raise InputError(f"no leaf of params is in a block; the paths are {', '.join(leaves)}")
    return {name: _chosen(op, chosen, stacks) for name, chosen in groups.items()}


def part_of(block: Operator, tree: Any) -> Any:
    """What `block`, one of `blocks` or `restrict`, has of a tree like the parameters: one of its vectors."""

    def part(own: Any, fixed: Any, whole: Any) -> Any:
        if own is None:
            return None
        return whole[fixed.numbers] if isinstance(fixed, Sliced) else whole

    return jax.tree.map(part, block.params, block.terms[0].rest, tree, is_leaf=lambda x: x is None)


# A leaf by its path, and the number along its stack axis where it has one.
Unit = tuple[str, int | None]


def leaf_name(path: Path) -> str:
    """The path of a leaf as text: `dense_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _text(unit: Unit) -> str:
    return unit[0] if unit[1] is None else f"{unit[0]}/{unit[1]}"


def _length(leaf: Any) -> int:
    return leaf.shape[0] if leaf.ndim else 0


def _named_leaves(params: Any) -> dict[str, Any]:
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def stack_lengths(params: Any, stacked: Names) -> dict[str, int]:
    """The length of the first axis of every stacked leaf, by its path.

    Raises:
        InputError: a pattern that no leaf matches, or a scalar.
    """
    return _stacks(_named_leaves(params), stacked)


def stacks_by_shape(params: Any) -> dict[str, int]:
    """The stacked leaves, as `stack_lengths` has them, that cannot well be anything else.

    These are the arrays of a module that share a first axis, where one of them is [L, ..., in, out] and another
    [L, out]: a single layer has no bias with two axes. Modules beside it with arrays [L, in] or [L, out] alone, such as
    norms, are of the same stack.
    """
    modules: dict[Path, dict[str, Any]] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        modules.setdefault(path[:-1], {})[leaf_name(path)] = leaf
    found: dict[str, int] = {}
    for path, own in modules.items():
        biases = {leaf.shape for leaf in own.values() if leaf.ndim == 2}
        kernels = [leaf.shape for leaf in own.values() if leaf.ndim > 2 and leaf.shape[0] > 1]
        for length, *_, inputs, outputs in kernels:
            if (length, outputs) in biases and all(leaf.shape[:1] == (length,) for leaf in own.values()):
                vectors = {(length, inputs), (length, outputs)}
                beside = [
                    other
                    for place, other in modules.items()
                    if len(place) == len(path)
                    and place[:-1] == path[:-1]
                    and {leaf.shape for leaf in other.values()} <= vectors
                ]
                found |= dict.fromkeys([name for module in (own, *beside) for name in module], length)
    return found


def _patterns(what: str, names: Any) -> tuple[str, ...]:
    """One pattern or several.

    Raises:
        InputError: something else.
    """
    patterns = (names,) if isinstance(names, str) else names
    if not isinstance(patterns, Sequence | Set) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(
            f"{what} must be a pattern such as 'dense_0/*', several, or a function of a path, got {shown(names)}"
        )
    return tuple(patterns)


def _stacks(leaves: Mapping[str, Any], stacked: Names) -> dict[str, int]:
    """The lengths of the stacks among `leaves`."""
    if callable(stacked):
        chosen = [name for name in leaves if stacked(name)]
    else:
        chosen = []
        for pattern in _patterns("stacked", stacked):
            matching = fnmatch.filter(leaves, pattern)
            if not matching:
                raise InputError(f"no leaf of params matches stacked={pattern!r}; {nearest(pattern, leaves)}")
            chosen += matching
    for name in chosen:
        if not leaves[name].ndim:
            raise InputError(f"a stacked leaf must have a first axis, got a scalar at {name!r}")
    return {name: _length(leaves[name]) for name in chosen}


def _units(leaves: Mapping[str, Any], stacks: Mapping[str, int]) -> list[Unit]:
    """Layer by layer within a stack, so that blocks come in the order of layers."""
    units: list[Unit] = []
    for name in leaves:
        units += [(name, i) for i in range(stacks[name])] if name in stacks else [(name, None)]
    return units


def _naming(leaves: Mapping[str, Any], by: int | str | Sequence[str] | None) -> Callable[[str], str | None]:
    """The function that gives the name of the block of a leaf."""
    paths = {name: name.split("/") for name in leaves}
    # NNX ends every path with the attribute that holds the array.
    if all(len(keys) > 1 and keys[-1] == "value" for keys in paths.values()):
        paths = {name: keys[:-1] for name, keys in paths.items()}
    if by is None:
        inner = {tuple(keys[:i]) for keys in paths.values() for i in range(len(keys) - 1)}
        return lambda name: _layer(paths[name], inner)
    if not isinstance(by, int | np.integer):
        patterns = _patterns("by", by)
        for pattern in patterns:
            if all(_beginning(keys, pattern) is None for keys in paths.values()):
                raise InputError(f"no leaf of params is below {pattern!r}; {nearest(pattern, leaves)}")
        return lambda name: next(filter(None, (_beginning(paths[name], pattern) for pattern in patterns)), None)
    depth = numerics.require_count("the number of keys", by) + _shared(list(paths.values()))
    return lambda name: "/".join(paths[name][:depth])


def _layer(keys: list[str], inner: set[tuple[str, ...]]) -> str:
    """The path of what holds an array, or of the array where that also holds layers, or is the tree itself."""
    parent = tuple(keys[:-1])
    return "/".join(keys if parent in inner or not parent else parent)


def _beginning(keys: list[str], pattern: str) -> str | None:
    """The beginning of a path that matches `pattern` key by key; "*" stands for one key there."""
    parts = pattern.split("/")
    if len(keys) < len(parts) or not all(map(fnmatch.fnmatchcase, keys, parts)):
        return None
    return "/".join(keys[: len(parts)])


def _shared(paths: list[list[str]]) -> int:
    """The number of keys with which all paths begin, less the last key of the shortest."""
    count = 0
    while all(len(keys) > count + 1 and keys[count] == paths[0][count] for keys in paths):
        count += 1
    return count


def _require_operator(op: Any) -> None:
    if not isinstance(op, Operator):
        raise InputError(f"this takes an operator, such as cv.hessian(...), got {type(op).__name__}")


def _chosen(op: Operator, chosen: set[Unit], stacks: Mapping[str, int]) -> Operator:
    """The block of some units."""
    layers: dict[str, tuple[int, ...] | None] = {}
    for name in dict.fromkeys(name for name, _ in chosen):
        numbers = tuple(sorted(i for other, i in chosen if other == name and i is not None))
        layers[name] = None if len(numbers) == stacks.get(name, 0) else numbers
    return dataclasses.replace(op, terms=tuple(_restricted(term, layers) for term in op.terms))


def _restricted(term: Term, layers: Mapping[str, tuple[int, ...] | None]) -> Term:
    """The term with these leaves free; None for all of a leaf, or numbers along its first axis."""
    if not isinstance(term, Term):
        raise InputError("restrict the operator before its linearisation is made, not after")
    inside, outside = trees.split(term.params, lambda path: leaf_name(path) in layers)
    numerics.require_floating("params", inside, "choose leaves of floating point numbers alone")
    if term.product is matvec_product:
        if any(layers.values()):
            raise InputError("a known map cannot be restricted to some layers of a stack; restrict its leaves whole")
        outside = jax.tree.map(jnp.zeros_like, outside)
    rest = outside if term.rest is None else trees.join_rests(term.rest, outside)
    if any(layers.values()):
        places = jax.tree.map_with_path(lambda path, _: _Numbers(layers[leaf_name(path)]), inside)
        rest = trees.join_rests(jax.tree.map(_fixed_layers, inside, places), rest)
        inside = jax.tree.map(
            lambda leaf, at: leaf if at.numbers is None else leaf[jnp.array(at.numbers)], inside, places
        )
    scalings = tuple(_restricted_scaling(scaling, inside, layers) for scaling in term.scalings)
    return dataclasses.replace(term, params=inside, rest=rest, scalings=scalings)


def _restricted_scaling(scaling: Scaling, inside: Any, layers: Mapping[str, tuple[int, ...] | None]) -> Scaling:
    if scaling.function is not multiplied:
        raise InputError("restrict the operator, then precondition it with a function for what is left, not before")

    def chosen(path: Path, factors: Any) -> Any:
        numbers = layers[leaf_name(path)]
        return factors if numbers is None else factors[jnp.array(numbers)]

    factors = jax.tree.map_with_path(chosen, trees.select(scaling.arrays[0], inside))
    return dataclasses.replace(scaling, arrays=(factors,))


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """A leaf of a tree, unlike a tuple."""

    numbers: tuple[int, ...] | None


def _fixed_layers(leaf: Any, at: _Numbers) -> Any:
    return None if at.numbers is None else Sliced(leaf, jnp.array(at.numbers))
