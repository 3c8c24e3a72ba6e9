"""How far two matrices are apart, and what a block-diagonal approximation of one leaves out."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.operators.blocks import Names, blocks, part_of
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import (
    Operator,
    layout_of,
    require_finite,
    require_operator,
    tree_matvec,
    tree_matvec_compiled,
)
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.stochtrace import estimates
from hessflat.curvature.stochtrace.estimates import Estimate, cost_since
from hessflat.utils.errors import InputError


def block_diagonal_error(
    op: Operator,
    key: Array,
    by: int | str | Sequence[str] | Mapping[str, Names] | Callable[[str], str | None] | None = None,
    stacked: Names = (),
    num_probes: int = 10,
) -> Estimate:
    """‖A − D‖_F / ‖A‖_F, with D the diagonal blocks of A: 0 where blocks do not interact, near 1 where D is negligible.

    For random signs z, ‖(A − D) z‖² and ‖A z‖² have the two squared norms as their means; the error of the root of
    their ratio is by the delta method. Each probe takes a product with A and one with each block.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: an operator of one of the curvature matrices, or of several.
        key: a JAX random key.
        by: the blocks, as in `cv.blocks`; together they must hold every parameter once.
        stacked: as in `cv.blocks`.
        num_probes: the number of random vectors.

    Raises:
        InputError: as `cv.blocks`; blocks that are no partition of the parameters.
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_key(key)
    num_probes = numerics.require_draws("num_probes", num_probes)
    op = op.as_it_is_now()
    parts = blocks(op, by, stacked)
    _require_partition(op, parts)
    layout = layout_of(op)
    probes = [vectors.to_tree(layout, vectors.draw(layout, key, "rademacher", k)) for k in range(num_probes)]
    with numerics.matmul_precision():
        products = _products(op, probes)
        scale = max(float(_largest(product)) for product in products) or 1.0
        whole = np.array([_square(product, scale) for product in products], np.float64)
        outside = np.zeros(num_probes)
        for block in parts.values():
            inside = _products(block, [part_of(block, z) for z in probes])
            pairs = zip(products, inside, strict=True)
            outside += [float(_square_of_difference(part_of(block, a), b, scale)) for a, b in pairs]
    require_finite(whole, outside)
    return _root_of_ratio(outside, whole, op.dtype, cost_since(began, num_probes * (1 + len(parts)), op))


def relative_distance(a: Operator, b: Operator, key: Array, num_probes: int = 10) -> Estimate:
    """‖A − B‖_F / ‖A‖_F, as of a matrix and its approximation.

    For random signs z, ‖(A − B) z‖² and ‖A z‖² have the two squared norms as their means; the error of the root of
    their ratio is by the delta method.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        a: a symmetric operator.
        b: another, on the same parameters.
        key: a JAX random key.
        num_probes: the number of random vectors, each with a product of both.

    Raises:
        InputError: operators on different trees, or products that are not finite.
    """
    began = time.perf_counter()
    require_operator(a)
    require_operator(b)
    numerics.require_key(key)
    numerics.require_like("the params of the second operator", b.params, a.params)
    num_probes = numerics.require_draws("num_probes", num_probes)
    a, b = a.as_it_is_now(), b.as_it_is_now()
    layout = layout_of(a)
    probes = [vectors.to_tree(layout, vectors.draw(layout, key, "rademacher", k)) for k in range(num_probes)]
    with numerics.matmul_precision():
        products, others = _products(a, probes), _products(b, probes)
        scale = max(float(_largest(product)) for product in products) or 1.0
        whole = np.array([_square(product, scale) for product in products], np.float64)
        pairs = zip(products, others, strict=True)
        apart = np.array([_square_of_difference(x, y, scale) for x, y in pairs], np.float64)
    require_finite(whole, apart)
    return _root_of_ratio(apart, whole, a.dtype, cost_since(began, 2 * num_probes, a))


def _products(op: Operator, probes: list[Any]) -> list[Any]:
    """One program for all probes; what the linearisation stores goes with the last."""
    loop, layout = loop_for(op), layout_of(op)
    op, product = linearize(op), tree_matvec_compiled if loop == "scan" else tree_matvec
    return [product(op, probe, loop, layout) for probe in probes]


def _require_partition(op: Operator, parts: Mapping[str, Operator]) -> None:
    marks = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape), op.params)
    sizes = np.cumsum([0, *(leaf.size for leaf in jax.tree.leaves(marks))])
    offsets = jax.tree.unflatten(jax.tree.structure(marks), list(map(int, sizes[:-1])))
    marks = jax.tree.map(lambda leaf, start: leaf + start, marks, offsets)
    held = np.zeros(op.size, int)
    for block in parts.values():
        for leaf in jax.tree.leaves(part_of(block, marks)):
            held[np.asarray(leaf).ravel()] += 1
    if (held != 1).any():
        missing, twice = int((held == 0).sum()), int((held > 1).sum())
        raise InputError(
            f"blocks must hold each of the {op.size:,} parameters once, got {missing:,} in none and {twice:,} in "
            "several; name the rest in a block of its own, or restrict the operator first"
        )


def _root_of_ratio(a: np.ndarray, b: np.ndarray, dtype: Any, cost: estimates.ProductCost) -> Estimate:
    """√(mean a / mean b) of paired samples [k], its error by the delta method, at least ε; 0 where every a is 0."""
    rounding = numerics.epsilon(dtype, cost.precision)
    if not a.any():
        return Estimate(0.0, rounding if b.any() else 0.0, *cost)
    if not b.any():
        raise InputError("a matrix of zeros has no relative distance to another")
    ratio = a.mean() / b.mean()
    error = estimates.standard_error(a - ratio * b) / b.mean()
    root = estimates.square_root(Estimate(float(ratio), float(error), *cost))
    return root._replace(standard_error=float(np.maximum(root.standard_error, rounding)))  # nan stays


@jax.jit
def _largest(tree: Any) -> Array:
    return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]).max()


@jax.jit
def _square(tree: Any, scale: Array) -> Array:
    return jnp.stack([jnp.sum(jnp.square(leaf / scale)) for leaf in jax.tree.leaves(tree)]).sum()


@jax.jit
def _square_of_difference(a: Any, b: Any, scale: Array) -> Array:
    result: Array = _square(jax.tree.map(jnp.subtract, a, b), scale)
    return result
