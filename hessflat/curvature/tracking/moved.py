"""One operator at other parameters, over other data, or over a random part of its examples, inside one program."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.operators.matrices import matvec_product
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Batches, Term
from hessflat.curvature.operators.weights import Weighted, example_with_weight, normalised
from hessflat.curvature.trees import Sliced
from hessflat.utils.errors import InputError


class Outline(NamedTuple):
    """An operator whose parameters are shapes, without its arrays; static."""

    structure: Any
    shapes: tuple[jax.ShapeDtypeStruct | None, ...]  # None where an array is

    def around(self, arrays: list[Array]) -> Operator:
        """The operator with its arrays."""
        each = iter(arrays)
        leaves = [next(each) if shape is None else shape for shape in self.shapes]
        op: Operator = jax.tree.unflatten(self.structure, leaves)
        return op


def outline(op: Operator) -> tuple[Outline, list[Array]]:
    """`op` with shapes in the place of its parameters, so that the arrays themselves are not kept; and all others."""

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)

    terms = tuple(dataclasses.replace(t, params=shapes(t.params), rest=shapes(t.rest)) for t in op.terms)
    leaves, structure = jax.tree.flatten(dataclasses.replace(op, terms=terms))
    own = tuple(leaf if isinstance(leaf, jax.ShapeDtypeStruct) else None for leaf in leaves)
    return Outline(structure, own), [leaf for leaf, shape in zip(leaves, own, strict=True) if shape is None]


def moved(op: Operator, params: Any = None, state: Any = None, examples: Any = None) -> Operator:
    """`op` at `params`, with `state` for its functions and over `examples`; what is None stays as it is.

    Args:
        op: a sum of curvature matrices.
        params: a tree like the parameters that the operator was made with, before it was restricted.
        state: the third argument of its functions.
        examples: arrays as `Batches` holds them, of the shapes of the operator's own; how they are batched stays.

    Raises:
        InputError: trees of other structures or shapes than the operator has, or what no function of it takes.
    """
    terms = op.terms
    if jax.tree.leaves(state) and all(term.state is None for term in terms):
        raise InputError("no function of the operator takes a state as its third argument; leave model_state out")
    if examples is not None and not any(map(has_examples, terms)):
        raise InputError("the operator is a known map and takes no examples; leave data out")
    if params is not None:
        terms = tuple(_at(term, params) for term in terms)
    if state is not None:
        terms = tuple(_with_state(term, state) for term in terms)
    if examples is not None:
        terms = tuple(_with_arrays(term, examples) if has_examples(term) else term for term in terms)
    return dataclasses.replace(op, terms=terms)


def has_examples(term: Term) -> bool:
    """Whether a term is a mean over examples, and no known map."""
    return term.product is not matvec_product


def num_examples(op: Operator) -> int:
    """N of the one data set of `op`.

    Raises:
        InputError: none, or several.
    """
    sizes = {term.batches.num_examples for term in op.terms if has_examples(term)}
    if len(sizes) != 1:
        found = "a known map" if not sizes else f"terms over {sorted(sizes)} examples"
        raise InputError(f"a part of the examples needs the curvature of one data set, got {found}; leave examples out")
    number: int = sizes.pop()
    return number


def over_examples(op: Operator, chosen: Array) -> Operator:
    """`op` over the examples `chosen` [n], numbers of one device's share where examples are spread over devices."""
    return dataclasses.replace(op, terms=tuple(_chosen(t, chosen) if has_examples(t) else t for t in op.terms))


def over_group(op: Operator, start: Array, size: int) -> Operator:
    """`op` over `size` examples from `start` on; the mean by weights is relative to all of them, as in batches."""

    def of(term: Term) -> Term:
        if not has_examples(term):
            return term
        arrays = term.batches.take_evenly(start, size)
        return dataclasses.replace(term, batches=dataclasses.replace(term.batches, arrays=arrays))

    return dataclasses.replace(op, terms=tuple(map(of, op.terms)))


def shares_of_groups(op: Operator, groups: int) -> Array:
    """The sum of the weights in each of as many groups, over that of equal shares [groups]; ones without weights."""
    arrays = next(term.batches.arrays for term in op.terms if has_examples(term))
    if not isinstance(arrays, Weighted):
        return jnp.ones(groups)
    of_examples = arrays.weights.reshape(len(arrays.weights), -1).sum(axis=1)
    return of_examples.reshape(groups, -1).sum(axis=1) * (groups / of_examples.sum())


def _at(term: Term, params: Any) -> Term:
    """A term at other parameters, of which it takes its own and holds the others fixed."""
    if term.rest is None:
        _require_alike(params, term.params)
        return dataclasses.replace(term, params=params)
    is_absent = lambda x: x is None or isinstance(x, Sliced)  # noqa: E731

    def own(like: Any, fixed: Any, new: Any) -> Any:
        if like is None:
            return None
        return new[fixed.numbers] if isinstance(fixed, Sliced) else new

    def other(fixed: Any, new: Any) -> Any:
        if fixed is None:
            return None
        if new is None:
            raise InputError("params must be all parameters, also those that are held fixed, got None for some of them")
        return Sliced(new, fixed.numbers) if isinstance(fixed, Sliced) else new

    rest = jax.tree.map(other, term.rest, params, is_leaf=is_absent)
    inside = jax.tree.map(own, term.params, term.rest, params, is_leaf=is_absent)
    _require_alike(inside, term.params)
    return dataclasses.replace(term, params=inside, rest=rest)


def _require_alike(params: Any, like: Any) -> None:
    numerics.require_like("params", params, like)
    for leaf, own in zip(jax.tree.leaves(params), jax.tree.leaves(like), strict=True):
        if jnp.result_type(leaf) != own.dtype:
            raise InputError(f"params must be of the operator's type, {own.dtype}, got {jnp.result_type(leaf)}")


def _with_state(term: Term, state: Any) -> Term:
    if term.state is None:
        return term
    state = jax.tree.map(jnp.asarray, state)
    if _shapes(state) != _shapes(term.state):
        raise InputError("state must have the structure and shapes of the operator's own")
    return dataclasses.replace(term, state=state)


def _with_arrays(term: Term, arrays: Any) -> Term:
    if _shapes(arrays) != _shapes(term.batches.arrays):
        raise InputError(
            "data must have the structure, shapes and weights of the operator's own, "
            f"{_brief(term.batches.arrays)}, got {_brief(arrays)}"
        )
    return _over(term, term.batches, arrays)


def _chosen(term: Term, chosen: Array) -> Term:
    batches = term.batches
    pieces = 1 if batches.devices is None else batches.devices.pieces

    def rows(x: Array) -> Array:
        if pieces == 1:
            return jnp.take(x, chosen, axis=0)
        by_device = x.reshape(pieces, -1, *x.shape[1:])
        return jnp.take(by_device, chosen, axis=1).reshape(-1, *x.shape[1:])

    arrays = jax.tree.map(rows, batches.arrays)
    return _over(term, batches, normalised(arrays) if isinstance(arrays, Weighted) else arrays)


def _over(term: Term, batches: Batches, arrays: Any) -> Term:
    spare = example_with_weight(arrays) if isinstance(arrays, Weighted) else None
    return dataclasses.replace(term, batches=dataclasses.replace(batches, arrays=arrays), spare=spare)


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [jnp.shape(leaf) for leaf in leaves]


def _brief(tree: Any) -> str:
    return str([tuple(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree)])
