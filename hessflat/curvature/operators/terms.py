"""One curvature matrix as data: a product function, the user's functions, and what they are evaluated at."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessflat.curvature.numerics import trees
from hessflat.curvature.operators.batches import Batches

Product = Callable[[tuple[Callable, ...], Any, Any, Any], Any]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "batches", "rest", "state"],
    meta_fields=["product", "functions", "averages"],
)
@dataclasses.dataclass(frozen=True)
class Term:
    """One matrix: `product(functions, params, batch, vector)`, averaged over the batches by their sizes."""

    product: Product
    functions: tuple[Callable, ...]  # the first takes the parameters, the others the outputs of the first
    averages: tuple[bool, ...]  # whether a function returns the mean over its batch, or something for each example
    params: Any  # what is differentiated; None in the places of `rest`
    batches: Batches
    rest: Any = None  # the parameters that are held fixed; None where there are none
    state: Any = None  # a third argument for every function, such as running statistics; None where there is none

    def on_one_device(self) -> "Term":
        """The term over the examples that one device holds, inside `jax.shard_map`."""
        return dataclasses.replace(self, batches=self.batches.on_one_device())

    def partition(self, whole: Any, example: Any) -> "Term":
        """How each array lies on the devices: examples are spread, all else is everywhere."""
        specs = jax.tree.map(lambda _: whole, self)
        arrays = jax.tree.map(lambda _: example, self.batches.arrays)
        return dataclasses.replace(specs, batches=dataclasses.replace(self.batches, arrays=arrays))


def product_of(term: Term, vector: Any) -> Any:
    """The product over all examples of the term at once."""
    return term.product(functions_of(term), term.params, term.batches.arrays, vector)


def functions_of(term: Term) -> tuple[Callable, ...]:
    """The user's functions with two arguments, parameters (or outputs) and batch; all others are bound."""
    pairs = zip(term.functions, term.averages, strict=True)
    return tuple(_bound(term, i, function, average) for i, (function, average) in enumerate(pairs))


def _bound(term: Term, position: int, function: Callable, average: bool) -> Callable:
    extra = () if term.state is None else (term.state,)
    statistics, number = term.batches.statistics_batch, term.batches.num_examples

    def call(x: Any, batch: Any) -> Any:
        if position == 0 and term.rest is not None:
            x = trees.merge(x, term.rest)
        return function(x, batch, *extra)

    if statistics is None or number <= statistics:
        return call

    def over_batches(x: Any, batch: Any) -> Any:
        # The vmap is differentiated, not the derivative mapped: kernels' gradients stay one for all batches.
        batches = jax.tree.map(lambda leaf: leaf.reshape(-1, statistics, *leaf.shape[1:]), batch)
        results = jax.vmap(call, in_axes=(None if position == 0 else 0, 0))(x, batches)
        return jax.tree.map(lambda r: jnp.mean(r, axis=0), results) if average else results

    return over_batches
