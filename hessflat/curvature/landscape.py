"""Losses and other means over examples on lines and planes in parameter space.

Every result gives the Euclidean length of one unit of its coordinates, which a comparison of landscapes requires.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.operators.streams import why_not_finite
from hessflat.curvature.operators.terms import Batches, as_batches, user_function
from hessflat.curvature.operators.weights import Weighted, evaluate, example_with_weight
from hessflat.curvature.records import record, span, spans
from hessflat.utils.errors import InputError


@record(
    lambda self: f"values at {len(self.alphas)} points of a line, one unit of α is {self.distance:.4g} long",
    {"α": lambda self: span(self.alphas), "values": lambda self: spans(self.values)},
)
class Line(NamedTuple):
    """Values at `alphas` along a line; the point at α is at the distance α · `distance` from the point at 0."""

    alphas: np.ndarray  # [n]
    values: Any  # what the function returns, with a float64 array [n] for every number
    distance: float  # Euclidean length of one unit of α
    num_evaluations: int  # passes over the data
    seconds: float
    precision: str


@record(
    lambda self: (
        f"values at {len(self.alphas)} × {len(self.betas)} points of a plane, "
        f"one unit of α is {self.distances[0]:.4g} long, of β {self.distances[1]:.4g}"
    ),
    {
        "α": lambda self: span(self.alphas),
        "β": lambda self: span(self.betas),
        "cos": "cosine",
        "values": lambda self: spans(self.values),
    },
)
class Plane(NamedTuple):
    """Values on the grid origin + α u + β v."""

    alphas: np.ndarray  # [n]
    betas: np.ndarray  # [m]
    values: Any  # what the function returns, with a float64 array [n, m] for every number
    distances: tuple[float, float]  # Euclidean lengths of u and v, one unit of α and of β
    cosine: float  # of the angle between u and v; nan where one of them is zero
    num_evaluations: int  # passes over the data
    seconds: float
    precision: str


def line(function: Callable[..., Any], a: Any, b: Any, alphas: Any, data: Any, state: Any = None) -> Line:
    """The values of `function` at (1 − α) a + α b: α = 0 is a, α = 1 is b, and α may be outside [0, 1].

    Goodfellow, Vinyals and Saxe (2015, *Qualitatively characterizing neural network optimization problems*).

    Args:
        function: `function(params, batch)` -> a mean over the batch, or a tree of means, such as (loss, accuracy).
            Batches are averaged by their sizes.
        a: pytree of floating arrays.
        b: a tree like `a`.
        alphas: [n] positions.
        data: pytree of arrays [N, ...], `Batches(arrays, batch_size)`, or a `Stream`, which is read once for all
            points.
        state: a third argument of `function`, the same at every point, such as the running averages of `a`, which need
            not suit other points.

    Raises:
        InputError: points of different structure or shapes, positions that are not finite numbers, a function that does
            not return numbers, or data or parameters that are empty or not finite.
    """
    began = time.perf_counter()
    a, b = _points(("a", "b"), (a, b))
    alphas = numerics.require_positions("alphas", alphas)
    values = _evaluate(function, (a, b), np.stack([1 - alphas, alphas], axis=1), data, state)
    distance = _norm(jax.tree.map(lambda x, y: np.asarray(y, np.float64) - np.asarray(x, np.float64), a, b))
    return Line(alphas, values, distance, len(alphas), time.perf_counter() - began, numerics.precision_name(a))


def along(
    function: Callable[..., Any], origin: Any, direction: Any, distances: Any, data: Any, state: Any = None
) -> Line:
    """The values of `function` at origin + t direction, for example along a top eigenvector or a random direction.

    The direction is not normalised, because the length of a filter-normalised direction is meaningful. t is a Euclidean
    distance where `Line.distance`, the length of the direction, is 1.

    Args:
        function: as in `line`.
        origin: pytree of floating arrays.
        direction: a tree like `origin`.
        distances: [n] values of t, `Line.alphas`.
        data: as in `line`.
        state: as in `line`.

    Raises:
        InputError: as `line`.
    """
    began = time.perf_counter()
    points = _points(("origin", "direction"), (origin, direction))
    distances = numerics.require_positions("distances", distances)
    values = _evaluate(function, points, np.stack([np.ones_like(distances), distances], axis=1), data, state)
    norm = _norm(points[1])
    return Line(distances, values, norm, len(distances), time.perf_counter() - began, numerics.precision_name(origin))


def plane(
    function: Callable[..., Any], origin: Any, u: Any, v: Any, alphas: Any, betas: Any, data: Any, state: Any = None
) -> Plane:
    """The values of `function` at origin + α u + β v for all α and β (Li et al. 2018, *Visualizing the loss
    landscape*).

    Args:
        function: as in `line`.
        origin: pytree of floating arrays.
        u: a tree like `origin`, which is not normalised; `random_direction` makes one.
        v: a tree like `u`, another.
        alphas: [n] positions along u.
        betas: [m] positions along v.
        data: as in `line`.
        state: as in `line`.

    Raises:
        InputError: as `line`.
    """
    began = time.perf_counter()
    points = _points(("origin", "u", "v"), (origin, u, v))
    alphas, betas = numerics.require_positions("alphas", alphas), numerics.require_positions("betas", betas)
    grid = np.stack([x.ravel() for x in np.meshgrid(alphas, betas, indexing="ij")], axis=1)
    values = _evaluate(function, points, np.insert(grid, 0, 1, axis=1), data, state)
    values = jax.tree.map(lambda x: x.reshape(len(alphas), len(betas)), values)
    _, u, v = points
    lengths = _norm(u), _norm(v)
    cosine = _dot(u, v) / (lengths[0] * lengths[1]) if min(lengths) > 0 else float("nan")
    return Plane(
        alphas, betas, values, lengths, cosine, len(grid), time.perf_counter() - began, numerics.precision_name(origin)
    )


def _evaluate(function: Callable[..., Any], points: tuple[Any, ...], weights: np.ndarray, data: Any, state: Any) -> Any:
    """`function` at Σ_j weights[k, j] points[j], each a mean over the data: a tree of float64 [k]."""
    batches = as_batches(data)
    extra = numerics.as_state(state, function)
    function = user_function(function)
    outputs = numerics.output_shapes("function(params, batch)", function, points[0], batches.like.unweighted, *extra)
    if not jax.tree.leaves(outputs):
        raise InputError("function(params, batch) must return a number, or a tree of numbers, got one without any")
    for leaf in jax.tree.leaves(outputs):
        if leaf.shape != ():
            raise InputError(f"function(params, batch) must return means over the batch, got shape {leaf.shape}")
    rows: list[list[Any]] = [[] for _ in weights]
    shares: list[float] = []
    with numerics.matmul_precision(), batches.parts() as parts:
        for part in parts:
            spare = None
            if isinstance(part.arrays, Weighted):
                spare = example_with_weight(part.arrays, always=not batches.in_memory)
            pieces = _pieces(part)
            shares += [size / batches.num_examples for _, size in pieces]
            # All work on a part is dispatched before any result is awaited.
            for row, w in zip(rows, weights, strict=True):
                row += [_on_piece(function, points, w, part, spare, extra, *piece) for piece in pieces]
            jax.block_until_ready(rows)
    means = [jax.tree.map(lambda *part: np.array(shares) @ np.asarray(part, np.float64), *row) for row in rows]
    values = jax.tree.map(lambda *column: np.array(column), *means)
    # A function may leave out what is not finite; where it does not, the data are at fault and not the point.
    lost = not all(np.isfinite(value).any() for value in jax.tree.leaves(values))
    if lost and (words := why_not_finite(batches, extra)):
        raise InputError(f"{words}, or left out by the function, which is finite at no point")
    return values


@partial(jax.jit, static_argnums=(0, 7))
def _on_piece(
    function: Callable[..., Any],
    points: tuple[Any, ...],
    weights: Array,
    batches: Batches,
    spare: Any,
    extra: tuple[Any, ...],
    start: Array,
    size: int,
) -> Any:
    def combined(*leaves: Array) -> Array:
        first, *others = (jnp.asarray(w, x.dtype) * x for w, x in zip(weights, leaves, strict=True))
        return sum(others, first)

    return evaluate(function, "mean", jax.tree.map(combined, *points), batches.take(start, size), spare, extra)


def _pieces(batches: Batches) -> list[tuple[int, int]]:
    """Start and size of each batch; where examples share statistics, of each batch that shares them."""
    total, size = batches.num_examples, batches.statistics_batch or batches.size
    return [(start, min(size, total - start)) for start in range(0, total, size)]


def _points(names: Sequence[str], points: Sequence[Any]) -> tuple[Any, ...]:
    arrays = tuple(numerics.as_arrays(name, point) for name, point in zip(names, points, strict=True))
    numerics.require_values(arrays, jnp.zeros(()))
    numerics.require_floating(names[0], arrays[0])
    for name, point in zip(names[1:], arrays[1:], strict=True):
        numerics.require_like(name, point, arrays[0])
    return arrays


def _dot(a: Any, b: Any) -> float:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum(np.vdot(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in leaves))


def _norm(a: Any) -> float:
    return float(np.sqrt(_dot(a, a)))
