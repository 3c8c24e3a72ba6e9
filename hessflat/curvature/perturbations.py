"""How much the mean loss of a batch rises where parameters move: at most within a ball, and on average.

The two are the m-sharpness of Foret et al. (2021, *Sharpness-aware minimization*) in the forms of Andriushchenko et al.
(2023, *A modern look at the relationship between sharpness and generalization*): the mean over batches B of
m examples of L_B(w + c ⊙ u) − L_B(w), with u in a ball or Gaussian, and scales c that are 1, or |w| for the adaptive
forms of Kwon et al. (2021, *ASAM*).
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.operators.terms import Batches, as_batches, user_function
from hessflat.curvature.operators.weights import Weighted, evaluate, example_with_weight
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.errors import InputError

Ball = Literal["l2", "linf"]
# Parameters where the coordinates are u: (params, scales, u) -> a tree like params, with params at u = 0.
Move = Callable[[Any, Any, Any], Any]


class Rise(NamedTuple):
    """The rise of the loss over batches, each with a perturbation of its own."""

    values: np.ndarray  # [k], of each batch, float64
    mean: float
    # Of the mean over batches, and no less than the rounding of the losses; nan for a single batch.
    standard_error: float
    num_evaluations: int  # of the loss, or of it with its gradient, of each batch
    seconds: float
    precision: str


def straight(params: Any, scales: Any, moved: Any) -> Any:
    """W + c ⊙ u."""
    return jax.tree.map(lambda w, c, u: w + c * u, params, scales, moved)


def worst_case(
    loss: Callable[..., Any],
    params: Any,
    data: Any,
    radius: float,
    key: Array,
    *,
    ball: Ball = "l2",
    scales: Any = None,
    num_steps: int = 5,
    state: Any = None,
    move: Move = straight,
) -> Rise:
    """The largest rise that gradient ascent meets within ‖u‖ ≤ ρ, batch by batch; a lower bound of the maximum.

    The first step goes from u = 0 to the boundary: it is the perturbation of SAM, or of ASAM with scales |w|. Each
    later one has the length ρ too, along the gradient or, in the ball of L∞, its signs, and is projected back. Where
    the loss is convex, no step of them makes it smaller; in general the largest loss that was met counts.

    A departure from Andriushchenko et al., whose Auto-PGD has 20 steps, with a momentum and lengths that adapt.

    Args:
        loss: `loss(params, batch)` -> the mean loss of the batch.
        params: pytree of floating arrays.
        data: pytree of arrays [N, ...], or `Batches(arrays, m)`. A last batch of fewer than m examples is left out,
            but where it is the only one.
        radius: ρ.
        key: a JAX random key, of the direction that a step takes where the gradient is zero.
        ball: "l2" or "linf", whose norm of u is bounded.
        scales: c, a tree like `params`, at least 0; None is 1 throughout.
        num_steps: gradients for each batch.
        state: a third argument of `loss`.
        move: the path from `params` along u.

    Raises:
        InputError: a radius or a number of steps below its least, scales of another structure, data that come as a
            stream, or a loss that is not finite.
    """
    began, num_steps = time.perf_counter(), numerics.require_count("num_steps", num_steps)
    numerics.require_option("ball", ball, ("l2", "linf"))
    problem = make_problem(loss, params, data, radius, key, scales, state, move)
    fallback = problem.normal(0)
    rises, bases = [], []
    with numerics.matmul_precision():
        for batch in problem.pieces():
            unit, values = jax.tree.map(jnp.zeros_like, problem.params), []
            for _ in range(num_steps):
                value, gradient = _value_and_gradient(*problem.static, *problem.traced, unit, batch)
                values.append(value)
                unit = _ascend(ball, unit, gradient, fallback)
            values.append(value_at(*problem.static, *problem.traced, unit, batch))
            losses = np.asarray(jax.device_get(values), np.float64)
            rises.append(losses.max() - losses[0])
            bases.append(losses)
    return _rise(rises, bases, num_steps + 1, began, params)


def average_case(
    loss: Callable[..., Any],
    params: Any,
    data: Any,
    radius: float,
    key: Array,
    *,
    scales: Any = None,
    num_draws: int = 2,
    state: Any = None,
) -> Rise:
    """The mean rise with u normal, of mean 0 and standard deviation ρ in every coordinate.

    Every draw counts with both signs, which removes the slope of the loss from the error and changes no mean. Batches
    have draws of their own, so the standard error over batches is that of draws as well.

    Args:
        loss: as in `worst_case`.
        params: as in `worst_case`.
        data: as in `worst_case`.
        radius: ρ, the standard deviation.
        key: a JAX random key.
        scales: as in `worst_case`.
        num_draws: for each batch.
        state: as in `worst_case`.

    Raises:
        InputError: as `worst_case`.
    """
    began, num_draws = time.perf_counter(), numerics.require_draws("num_draws", num_draws)
    problem = make_problem(loss, params, data, radius, key, scales, state, straight)
    still = jax.tree.map(jnp.zeros_like, problem.params)
    rises, bases = [], []
    with numerics.matmul_precision():
        for number, batch in enumerate(problem.pieces()):
            values = [value_at(*problem.static, *problem.traced, still, batch)]
            for draw in range(num_draws):
                noise = problem.normal(number * num_draws + draw)
                for signed in (noise, times(noise, -1)):
                    values.append(value_at(*problem.static, *problem.traced, signed, batch))
            losses = np.asarray(jax.device_get(values), np.float64)
            rises.append(losses[1:].mean() - losses[0])
            bases.append(losses)
    return _rise(rises, bases, 1 + 2 * num_draws, began, params)


class Problem(NamedTuple):
    """Checked arguments."""

    loss: Callable[..., Any]
    move: Move
    params: Any
    scales: Any
    radius: Array
    batches: Batches
    spare: Any  # an example of weight, for batches without any; None where examples have no weights
    extra: tuple[Any, ...]
    key: Array

    @property
    def static(self) -> tuple[Any, ...]:
        return self.loss, self.move

    @property
    def traced(self) -> tuple[Any, ...]:
        return self.params, self.scales, self.radius, self.extra

    def pieces(self) -> Iterator[tuple[Any, Any]]:
        """Full batches of m examples, with the spare one."""
        for start in range(0, self.batches.count * self.batches.size, self.batches.size):
            yield self.batches.take(start, self.batches.size), self.spare

    def normal(self, number: int) -> Any:
        """Standard normal numbers, a tree like params; NumPy draws them, so there is nothing to compile."""
        generator = np.random.default_rng([*np.asarray(jax.random.key_data(self.key)).tolist(), number])
        return jax.tree.map(lambda w: numerics.on_device(generator.standard_normal(w.shape), w.dtype), self.params)


def make_problem(
    loss: Callable[..., Any], params: Any, data: Any, radius: float, key: Array, scales: Any, state: Any, move: Move
) -> Problem:
    numerics.require_key(key)
    radius = numerics.require_number("radius", radius, above=0)
    params = numerics.as_arrays("params", params)
    numerics.require_floating("params", params, "give those leaves alone that are to move")
    if scales is None:
        scales = jax.tree.map(jnp.ones_like, params)
    scales = numerics.as_arrays("scales", scales)
    numerics.require_like("scales", scales, params)
    batches = as_batches(data)
    if not batches.in_memory:
        raise InputError("perturbations need examples in memory, got a stream; give cv.Batches of its examples")
    spare = example_with_weight(batches.arrays) if isinstance(batches.arrays, Weighted) else None
    extra = numerics.as_state(state, loss)
    return Problem(user_function(loss), move, params, scales, jnp.asarray(radius), batches, spare, extra, key)


@partial(jax.jit, static_argnums=(0, 1))
def value_at(
    loss: Callable[..., Any], move: Move, params: Any, scales: Any, radius: Array, extra: Any, unit: Any, batch: Any
) -> Any:
    arrays, spare = batch
    return evaluate(loss, "mean", move(params, scales, times(unit, radius)), arrays, spare, extra)


@partial(jax.jit, static_argnums=(0, 1))
def _value_and_gradient(
    loss: Callable[..., Any], move: Move, params: Any, scales: Any, radius: Array, extra: Any, unit: Any, batch: Any
) -> Any:
    """The loss at u = ρ `unit`, and its gradient in `unit`."""
    return jax.value_and_grad(lambda unit: value_at(loss, move, params, scales, radius, extra, unit, batch))(unit)


@partial(jax.jit, static_argnums=0)
def _ascend(ball: Ball, unit: Any, gradient: Any, fallback: Any) -> Any:
    """A step of length 1 and back into the ball of radius 1; along `fallback` where the gradient is zero.

    A gradient that is not finite leads to a loss that is not.
    """
    # A gradient near a minimum would underflow in squares.
    largest = jnp.max(jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradient)]))
    gradient = jax.tree.map(
        lambda g, z: jnp.where(largest == 0, z, g / jnp.where(largest == 0, 1, largest)), gradient, fallback
    )
    if ball == "linf":
        return jax.tree.map(lambda u, g: jnp.clip(u + jnp.sign(g), -1, 1), unit, gradient)
    there = jax.tree.map(jnp.add, unit, times(gradient, 1 / _norm(gradient)))
    return times(there, 1 / jnp.maximum(_norm(there), 1))


def _norm(tree: Any) -> Array:
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


@jax.jit
def times(tree: Any, factor: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(factor, leaf.dtype), tree)


def _rise(rises: list[float], losses: list[np.ndarray], evaluations: int, began: float, params: Any) -> Rise:
    values, met = np.array(rises), np.array(losses)
    if not np.isfinite(met).all():
        raise InputError(
            "the loss or its gradient is not finite near these parameters; look at it, or lower the radius"
        )
    rounding = float(jnp.finfo(jnp.float32).eps) * np.abs(met).max()
    error = float(np.maximum(estimates.standard_error(values), rounding))  # nan stays
    return Rise(values, float(values.mean()), error, *estimates.cost_since(began, evaluations, params))
