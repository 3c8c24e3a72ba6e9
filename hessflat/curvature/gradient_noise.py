"""What the noise of mini-batches does to curvature: batch sharpness, and the scale of gradient noise.

Mini-batches are drawn without replacement, uniformly, and independently of one another.
"""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.minibatch import drawn, require_draws_of
from hessflat.curvature.operators.gradients import gradient, require_loss
from hessflat.curvature.operators.operator import Operator, require_finite
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.errors import InputError

# How many times its rounding a gradient must be.
_OVER_ROUNDING = 4


@record(
    lambda self: f"batch sharpness of {len(self.samples)} mini-batches",
    {"E g'Hg / E g'g": "value ± standard_error"},
)
class BatchSharpness(NamedTuple):
    """The curvature of mini-batches along their own gradients."""

    value: float  # E g_B'H_B g_B / E ‖g_B‖²
    standard_error: float  # over mini-batches, to first order; nan for a single one
    samples: np.ndarray  # [k] g_B'H_B g_B / ‖g_B‖²
    squared_norms: np.ndarray  # [k] ‖g_B‖²
    num_products: int  # over mini-batches, each with a gradient
    seconds: float
    precision: str


@record(
    "the scale of gradient noise",
    {"tr Σ/‖g‖²": "value ± standard_error", "tr Σ": "trace ± trace_standard_error"},
)
class GradientNoiseScale(NamedTuple):
    """The noise of the gradient of one example relative to the gradient."""

    value: float  # tr Σ / ‖g‖², in examples
    standard_error: float  # over mini-batches, with the rounding of ‖g‖²; nan for a single one
    trace: float  # tr Σ, of the covariance of the gradients of single examples
    trace_standard_error: float  # over mini-batches
    squared_norm: float  # ‖g‖², of all examples
    num_gradients: int  # over mini-batches, and one over all data
    seconds: float
    precision: str


def batch_sharpness(op: Operator, key: Array, batch_size: int, num_batches: int) -> BatchSharpness:
    """E g_B'H_B g_B / E ‖g_B‖² over mini-batches, which SGD brings to 2 / η, where λ_max of all data stays below.

    Andreyev and Beneventano (2024, *Edge of stochastic stability*, arXiv 2412.20553, definition 1).

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: the Hessian of a mean of a loss over one data set, in memory.
        key: a JAX random key.
        batch_size: the number of examples in a mini-batch.
        num_batches: k; two at least give an error.

    Raises:
        InputError: counts out of range, an operator that is no Hessian, several data sets, gradients that are zero.

    >>> import jax, jax.numpy as jnp
    >>> import hessflat.curvature as cv
    >>> H = cv.hessian(lambda w, x: jnp.mean((x @ w) ** 2) / 2, jnp.ones(1), jnp.ones((8, 1)))
    >>> cv.batch_sharpness(H, jax.random.key(0), 2, 5).value  # every mini-batch has the curvature 1
    1.0
    """
    began = time.perf_counter()
    require_loss(op)
    _, batch_key, batch_size, num_batches = require_draws_of(op, key, batch_size, num_batches)
    with numerics.matmul_precision():
        forms = [_forms(part) for part in drawn(op.as_it_is_now(), batch_key, batch_size, num_batches)]
    curvatures, squares = np.asarray(jax.device_get(forms), np.float64).T
    require_finite(curvatures, squares)
    if not (squares > 0).all():
        raise InputError("a mini-batch has a gradient of zero, along which there is no curvature; train less far")
    value = float(curvatures.mean() / squares.mean())
    error = float(estimates.standard_error(curvatures - value * squares) / squares.mean())
    cost = estimates.cost_since(began, num_batches, op)
    return BatchSharpness(value, error, curvatures / squares, squares, *cost)


def gradient_noise_scale(op: Operator, key: Array, batch_size: int, num_batches: int) -> GradientNoiseScale:
    """Tr Σ / ‖g‖², with Σ the covariance of per-example gradients: the batch size at which noise equals signal.

    It is B_simple of McCandlish et al. (2018, *An empirical model of large-batch training*, equation 2.9). Σ is that of
    the N examples of the data, tr Σ = B (N − 1) / (N − B) E ‖g_B − g‖², and g is their gradient, so that neither is
    biased; with weights of examples both approach this as B grows.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: as in `batch_sharpness`.
        key: a JAX random key.
        batch_size: B, below the number of examples.
        num_batches: the number of mini-batches; two at least give an error.

    Raises:
        InputError: as `batch_sharpness`; mini-batches of all examples; a gradient that is zero to rounding, at most
            four times ε (tr Σ)^½.
    """
    began = time.perf_counter()
    require_loss(op)
    _, batch_key, batch_size, num_batches = require_draws_of(op, key, batch_size, num_batches)
    number = max(term.batches.num_examples for term in op.terms)
    if batch_size == number:
        raise InputError(f"batch_size must be below the {number} examples of the data: all of them have no noise")
    op = op.as_it_is_now()
    with numerics.matmul_precision():
        mean = gradient(op)
        squares = [_squared_distance(part, mean) for part in drawn(op, batch_key, batch_size, num_batches)]
        norm = float(_dot(mean, mean))
    factor = batch_size * (number - 1) / (number - batch_size)
    traces = factor * np.asarray(jax.device_get(squares), np.float64)
    require_finite(traces, norm)
    trace = estimates.mean(traces, estimates.cost_since(began, 1 + num_batches, op))
    # Gradients of examples, of the size (tr Σ)^½, cancel in ‖g‖, which keeps the rounding of theirs.
    length, rounding = math.sqrt(norm), numerics.epsilon(op.dtype, trace.precision) * math.sqrt(trace.value)
    if not length > _OVER_ROUNDING * rounding:
        raise InputError(
            f"the gradient of all data is zero to rounding, {length:.1e} with an error of {rounding:.1e}, so "
            "that noise relative to it is not a number; measure earlier in training, or in 64-bit mode"
        )
    value = trace.value / norm
    error = math.hypot(trace.standard_error / norm, 2 * value * rounding / length)
    return GradientNoiseScale(value, error, trace.value, trace.standard_error, norm, *trace[2:])


@jax.jit
def _forms(op: Operator) -> tuple[Array, Array]:
    """The numbers g'Hg and g'g of a mini-batch."""
    g = gradient(op)
    return vectors.dot(g, op(g)), vectors.dot(g, g)


@jax.jit
def _squared_distance(op: Operator, mean: Any) -> Array:
    rest = jax.tree.map(jnp.subtract, gradient(op), mean)
    return vectors.dot(rest, rest)


_dot = jax.jit(vectors.dot)
