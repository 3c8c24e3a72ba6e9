"""The gradient of a batch, with the batch-norm statistics that its forward pass leaves; ghost batches; SAM."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hessflat.models import Model
from hessflat.training.losses import LossFunction
from hessflat.utils.convolution import canonical

# JAX's names for what accelerators do to the factors of a product; sums are in float32.
PRECISIONS: Mapping[str, str | None] = {
    "default": None,
    "bfloat16": None,
    "tensorfloat32": "tensorfloat32",
    "float32": "highest",
}


class Batch(NamedTuple):
    """Examples of one step."""

    inputs: Array  # [n, ...]
    targets: Array  # [n, C]


# (params, batch_stats, batch) -> (gradient of the mean loss, batch_stats)
Gradient = Callable[[Any, Any, Batch], tuple[Any, Any]]


def make_gradient(
    model: Model, loss: LossFunction, precision: str = "default", ghost_batch_size: int | None = None
) -> Gradient:
    """A function of (params, batch_stats, batch) that gives (gradient of the mean loss, batch_stats).

    Args:
        model: its batch norm, if any, is in train mode.
        loss: of each example.
        precision: of `PRECISIONS`. "bfloat16" also keeps activations and a copy of the weights in that type, while
            the weights themselves, their gradient and the batch-norm statistics stay in float32.
        ghost_batch_size: see `ghost_batch_gradient`; None takes all examples at once.
    """
    of_mean_loss = jax.grad(partial(mean_loss, model, loss, precision), has_aux=True)
    whole = partial(batch_gradient, of_mean_loss, precision)
    return whole if ghost_batch_size is None else partial(ghost_batch_gradient, whole, ghost_batch_size)


def mean_loss(
    model: Model, loss: LossFunction, precision: str, params: Any, batch_stats: Any, batch: Batch
) -> tuple[Array, Any]:
    """The mean loss of a batch in train mode, and the batch-norm statistics after it."""
    inputs, targets = batch
    if precision == "bfloat16":
        params, inputs = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, inputs))
    outputs, batch_stats = model.apply(params, batch_stats, inputs, True)
    return jnp.mean(loss(outputs.astype(targets.dtype), targets)), batch_stats


def batch_gradient(
    of_mean_loss: Gradient, precision: str, params: Any, batch_stats: Any, batch: Batch
) -> tuple[Any, Any]:
    """The gradient of a batch in one pass, its products in `precision`."""
    with jax.default_matmul_precision(PRECISIONS[precision]):
        # On a CPU the rewritten convolutions are up to twice as fast, and may stand in compiled loops.
        return canonical(of_mean_loss)(params, batch_stats, batch)


def ghost_batch_gradient(gradient: Gradient, size: int, params: Any, batch_stats: Any, batch: Batch) -> tuple[Any, Any]:
    """The mean of the gradients of ghost batches of `size` examples, so that a batch of any size fits in memory.

    Each has batch-norm statistics of its own, and the running ones are updated by one after another. `size` divides
    the batch.
    """
    count = len(batch.inputs) // size
    parts = jax.tree.map(lambda x: x.reshape(count, size, *x.shape[1:]), batch)

    def add(carry: tuple[Any, Any], part: Batch) -> tuple[tuple[Any, Any], None]:
        total, batch_stats = carry
        grads, batch_stats = gradient(params, batch_stats, part)
        return (jax.tree.map(lambda t, g: t + g / count, total, grads), batch_stats), None

    start = (jax.tree.map(jnp.zeros_like, params), batch_stats)
    return jax.lax.scan(add, start, parts)[0]


def sam_perturb(params: Any, gradient: Any, radius: Array | float) -> Any:
    """W + ρ g / ‖g‖, ρ = `radius`; w itself where the gradient is zero, or ρ is.

    Sharpness-aware minimisation (Foret et al. 2021) takes its gradient there, where the loss rises fastest nearby.
    """
    norm = optax.tree.norm(gradient)
    scale = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda w, g: w + (scale * g).astype(w.dtype), params, gradient)
