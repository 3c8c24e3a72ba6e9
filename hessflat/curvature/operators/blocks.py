"""Curvature with respect to some of the parameters: diagonal blocks of a curvature matrix."""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessflat.curvature import numerics
from hessflat.curvature.operators.matrices import matvec_product
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Term
from hessflat.utils.errors import InputError, nearest


def restrict(op: Operator, names: str | Sequence[str] | Callable[[str], bool]) -> Operator:
    """The diagonal block of `op` for some leaves of the parameters, with the others fixed.

    Vectors are trees like `params` with None in place of the other leaves. Only the chosen leaves are differentiated,
    so a product is cheaper than one with the whole matrix.

    Args:
        op: an operator of one of the curvature matrices, or of several.
        names: a pattern such as `"dense_0/*"` or `"*/kernel"` for the path of a leaf, keys joined by "/"; several
            patterns; or a function of the path.

    Raises:
        InputError: a pattern that no leaf matches; the message names the nearest path.
    """
    _require_operator(op)
    paths = [leaf_name(path) for path, _ in jax.tree.leaves_with_path(op.params)]
    if callable(names):
        chosen = {path for path in paths if names(path)}
        if not chosen:
            raise InputError(f"no leaf of params was chosen; the paths are {', '.join(paths)}")
    else:
        chosen = set()
        for pattern in (names,) if isinstance(names, str) else names:
            matching = fnmatch.filter(paths, pattern)
            if not matching:
                raise InputError(f"no leaf of params matches {pattern!r}; {nearest(pattern, paths)}")
            chosen.update(matching)
    return dataclasses.replace(op, terms=tuple(_restricted(term, chosen) for term in op.terms))


def blocks(op: Operator) -> dict[str, Operator]:
    """{name: diagonal block} for every top-level entry of `params` (usually a layer), in order."""
    _require_operator(op)
    tops = dict.fromkeys(leaf_name(path[:1]) for path, _ in jax.tree.leaves_with_path(op.params))
    return {top: restrict(op, partial(_is_below, top)) for top in tops}


def _require_operator(op: Any) -> None:
    if not isinstance(op, Operator):
        raise InputError(f"this takes an operator, such as cv.hessian(...), got {type(op).__name__}")


def _is_below(top: str, path: str) -> bool:
    return path == top or path.startswith(top + "/")


def leaf_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf as text: `dense_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _restricted(term: Term, chosen: set[str]) -> Term:
    if not isinstance(term, Term):
        raise InputError("restrict the operator before its linearisation is made, not after")
    inside, outside = numerics.split(term.params, lambda path: leaf_name(path) in chosen)
    numerics.require_floating("params", inside, "choose leaves of floating point numbers alone")
    if term.product is matvec_product:
        outside = jax.tree.map(jnp.zeros_like, outside)
    rest = outside if term.rest is None else numerics.merge(term.rest, outside)
    return dataclasses.replace(term, params=inside, rest=rest)
