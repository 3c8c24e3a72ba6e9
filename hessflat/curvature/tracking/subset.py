"""What a random part of the examples leaves open about an eigenvalue of all of them.

With Δ = H_B − H the error of n examples, drawn without replacement of N, and (λ, v) the top pair of H_B, perturbation
to second order gives

    λ_max(H_B) − λ_max(H) ≈ vᵀ Δ v + Σ_j (v_jᵀ Δ v)² / (λ − λ_j).

The first part has mean zero for a v that does not know B. The second is never negative: B's own top vector fits B best.
Both come from the products of g groups of B with v, of which Δ v is the error of the mean.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.operators.operator import Operator, matvec
from hessflat.curvature.tracking import moved
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils.errors import InputError

GROUPS = 8


class SubsetError(NamedTuple):
    """By how much λ_max of the examples that were taken may differ from that of all."""

    standard_error: Array  # [] of vᵀ H_B v
    bias: Array  # [] about how much too large the value is, with the other eigenvalues taken to be near 0


def num_groups(count: int, unit: int) -> int:
    """The number of groups of `count` examples, each a multiple of `unit`.

    Raises:
        InputError: fewer than four groups.
    """
    number = next((g for g in range(GROUPS, 3, -1) if count % (g * unit) == 0), 0)
    if not number:
        among = "" if unit == 1 else f" {unit}, the examples that belong together, times"
        raise InputError(f"examples must be a multiple of{among} 4, 5, 6, 7 or 8, for errors by group; got {count}")
    return number


def subset_error(op: Operator, layout: Layout, count: int, total: int, groups: int, vector: Vector) -> SubsetError:
    """The error of the largest eigenvalue of `op` by the `count` of `total` examples that it is over.

    Args:
        op: over `count` examples, in random order.
        layout: where its vectors lie.
        count: n.
        total: N.
        groups: g.
        vector: v [P], of unit length.
    """
    size = count // groups
    product: Any = lambda start: matvec(moved.over_group(op, start, size), layout, vector)  # noqa: E731
    # Side by side, groups hold the activations of all of their examples.
    together = layout.mesh is None and all(t.batches.size >= count for t in op.terms if moved.has_examples(t))
    each = numerics.mapped(product) if together else functools.partial(jax.lax.map, product)
    products = each(size * jnp.arange(groups))
    shares = moved.shares_of_groups(op, groups).astype(layout.dtype)
    mean = jax.tree.map(lambda rows: jnp.mean(rows, axis=0), products)
    # Of a mean by weights, the groups differ by what is left when each has its share of them.
    errors = jax.tree.map(lambda rows, x: rows - shares[:, None] * x[None], products, mean)
    # The variance of the mean, with what drawing without replacement takes from it; g − 1 where the weights of groups
    # are equal. A single group with weight tells nothing of the others.
    freedom = jnp.where(jnp.sum(shares > 0) > 1, groups - jnp.sum(shares**2) / groups, jnp.nan)
    factor = (1 - count / total) / (groups * freedom)
    along = vectors.dots(layout, errors, vector)
    squares = sum(jnp.sum(jnp.square(part), axis=1) for part in jax.tree.leaves(errors))
    outside = jnp.maximum(jnp.sum(squares - along**2), 0)
    value = jnp.abs(vectors.dot(vector, mean))
    return SubsetError(jnp.sqrt(factor * jnp.sum(along**2)), factor * outside / value)


def unit_of(op: Operator) -> int:
    """The number of examples that a part must be a multiple of: of shared statistics, and of devices."""
    units = [1]
    for term in op.terms:
        if moved.has_examples(term):
            pieces = 1 if term.batches.devices is None else term.batches.devices.pieces
            units.append((term.batches.statistics_batch or 1) * pieces)
    return math.lcm(*units)
