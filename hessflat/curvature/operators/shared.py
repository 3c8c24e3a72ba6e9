"""One linearisation for all diagonal blocks of an operator.

A linearised product is linear in its vector. For a block, the leaves of the others are zero, and so is what an equation
makes of zeros alone. Equations that give zero are left out, and those whose results no leaf of the block takes. All
else that is computed once, and the program that computes it, is that of the whole operator.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hessflat.curvature.operators.linearize import LinearizedTerm, Stages, linearize
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.trees import Sliced
from hessflat.utils import compat

# Primitives that give zero where all of these operands are zero, which is so whatever the others are.
_OF_ALL = {"add", "sub", "add_any", "concatenate"}
_OF_FIRST = {
    *("neg", "transpose", "reshape", "broadcast_in_dim", "reduce_sum", "convert_element_type", "squeeze", "copy"),
    *("expand_dims", "slice", "dynamic_slice", "gather", "rev", "cumsum", "reduce_precision", "div", "apart"),
}
_OF_ANY = {"mul", "dot_general"}


def with_one_linearization(op: Operator, parts: Mapping[str, Operator]) -> dict[str, Operator]:
    """The blocks `parts` of `op`, linearised together; as they are where `op` cannot be linearised.

    Args:
        op: the whole operator, which is not linearised.
        parts: what `blocks` makes of it. Some layers of a stack are no leaf, and such blocks stay as they are.
    """
    whole = linearize(op)
    if not all(isinstance(term, LinearizedTerm) for term in whole.terms):
        return dict(parts)
    return {name: _block(whole, part) for name, part in parts.items()}


def _block(whole: Operator, part: Operator) -> Operator:
    terms = []
    for linearized, term in zip(whole.terms, part.terms, strict=True):
        if any(isinstance(leaf, Sliced) for leaf in jax.tree.leaves(term.rest, is_leaf=_is_sliced)):
            return part
        own = {path for path, _ in jax.tree.leaves_with_path(term.params)}
        chosen = tuple(path in own for path, _ in jax.tree.leaves_with_path(linearized.params))
        structure = jax.tree.structure(term.params)
        cut = functools.partial(_of_block, chosen=chosen, structure=structure)
        stages, rest = cut(linearized.stages), tuple(map(cut, linearized.remainder_stages))
        terms.append(dataclasses.replace(linearized, params=term.params, stages=stages, remainder_stages=rest))
    return dataclasses.replace(part, terms=tuple(terms))


def _is_sliced(leaf: Any) -> bool:
    return isinstance(leaf, Sliced)


# Kept, so that the same block is the same program again.
@functools.lru_cache(maxsize=1024)
def _of_block(stages: Stages, chosen: tuple[bool, ...], structure: Any) -> Stages:
    """The stages of a product with, and its results for, the leaves that are chosen."""
    zero = {v for v, is_chosen in zip(stages.vector, chosen, strict=True) if not is_chosen}
    results = tuple(v for v, is_chosen in zip(stages.results, chosen, strict=True) if is_chosen)
    kept = []
    for equation in stages.unknown:
        if _gives_zero(equation, zero):
            zero.update(equation.outvars)
        else:
            kept.append(equation)
    needed, used = {v for v in results if not isinstance(v, compat.Literal)}, []
    for equation in reversed(kept):
        if equation.effects or needed.intersection(equation.outvars):
            used.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, compat.Literal))
    return dataclasses.replace(
        stages,
        vector=tuple(v for v, is_chosen in zip(stages.vector, chosen, strict=True) if is_chosen),
        unknown=tuple(reversed(used)),
        zeros=tuple(sorted(zero & needed, key=id)),
        results=results,
        structure=structure,
    )


def _gives_zero(equation: Any, zero: set[Any]) -> bool:
    """Whether all results of an equation are zero where the variables `zero` are."""

    def is_zero(atom: Any) -> bool:
        if isinstance(atom, compat.Literal):
            return not np.any(atom.val)
        return atom in zero

    name, inputs = equation.primitive.name, equation.invars
    if name in _OF_ALL:
        return all(map(is_zero, inputs))
    if name in _OF_ANY:
        return any(map(is_zero, inputs))
    if name in _OF_FIRST:
        return is_zero(inputs[0])
    if name == "select_n":
        return all(map(is_zero, inputs[1:]))
    if name in ("pad", "dynamic_update_slice"):
        return is_zero(inputs[0]) and is_zero(inputs[1])
    if name in ("scatter-add", "scatter_add"):
        return is_zero(inputs[0]) and is_zero(inputs[2])
    return False
