"""Loss, and whatever else is a mean over examples, on the straight line through two points in parameter space."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import trees
from hessflat.curvature.batches import Batches, as_batches


def line(function: Callable, a: Any, b: Any, alphas: Any, data: Any) -> Any:
    """`function` at (1 − α) a + α b: α = 0 is a, α = 1 is b, and α may lie beyond them.

    Args:
        function: `function(params, batch)` -> a mean over the batch, or a tree of means, such as (loss, accuracy).
        a: pytree of floating arrays.
        b: a tree like `a`.
        alphas: [n] positions.
        data: pytree of arrays [N, ...], or `Batches(arrays, batch_size)`.

    Returns:
        What `function` returns, with an array [n] for every number: the example-weighted means over `data`.

    Raises:
        InputError: points that are not alike, or data or parameters that are empty or not finite.
    """
    a, b, batches = trees.as_arrays("a", a), trees.as_arrays("b", b), as_batches(data)
    trees.require_floating("a", a)
    trees.require_like("b", b, a)
    trees.output_of("function(params, batch)", function, a, batches.arrays)
    values = [_mean(function, a, b, alpha, batches) for alpha in np.asarray(alphas, np.float64)]
    return jax.tree.map(lambda *column: np.array(column, np.float64), *values)


def _mean(function: Callable, a: Any, b: Any, alpha: float, batches: Batches) -> Any:
    total = batches.num_examples
    sizes = [(start, min(batches.size, total - start)) for start in range(0, total, batches.size)]
    parts = [_on_batch(function, a, b, alpha, batches, start, size) for start, size in sizes]
    weights = [size / total for _, size in sizes]
    return jax.tree.map(lambda *part: sum(w * float(p) for w, p in zip(weights, part, strict=True)), *parts)


@partial(jax.jit, static_argnums=(0, 6))
def _on_batch(function: Callable, a: Any, b: Any, alpha: Array, batches: Batches, start: Array, size: int) -> Any:
    def between(x: Array, y: Array) -> Array:
        position = jnp.asarray(alpha, x.dtype)
        return (1 - position) * x + position * y

    return function(jax.tree.map(between, a, b), batches.take(start, size))
