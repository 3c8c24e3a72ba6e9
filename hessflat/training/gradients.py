"""The gradient of a step, and the batch-norm statistics that its forward pass leaves."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.models import Model
from hessflat.training.losses import Loss, cross_entropy
from hessflat.utils.convolution import canonical

# JAX's names for what accelerators do to the factors of a product; sums are in float32.
PRECISIONS: Mapping[str, str | None] = {
    "default": None,
    "bfloat16": None,
    "tensorfloat32": "tensorfloat32",
    "float32": "highest",
}

Gradient = Callable[[Any, Any, Array, Array], tuple[Any, Any]]


def gradient_of(
    model: Model, precision: str, ghost_batch_size: int | None = None, loss: Loss = cross_entropy
) -> Gradient:
    """A function of (params, statistics, inputs, targets) that gives (gradient of the mean loss, statistics).

    Args:
        model: its batch norm, if any, is in train mode.
        precision: of `PRECISIONS`. "bfloat16" also keeps activations and a copy of the weights in that type, while
            the weights themselves, their gradient and the statistics stay in float32.
        ghost_batch_size: examples in each forward pass; their gradients are averaged and the statistics are updated
            by one after another, so that a batch of any size fits. None takes all at once.
        loss: of each example.
    """

    def objective(params: Any, statistics: Any, inputs: Array, targets: Array) -> tuple[Array, Any]:
        if precision == "bfloat16":
            params, inputs = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, inputs))
        logits, statistics = model.apply(params, statistics, inputs, True)
        return jnp.mean(loss(logits.astype(targets.dtype), targets)), statistics

    def whole(params: Any, statistics: Any, inputs: Array, targets: Array) -> tuple[Any, Any]:
        with jax.default_matmul_precision(PRECISIONS[precision]):
            # On a CPU the rewritten convolutions are up to twice as fast, and may stand in compiled loops.
            return canonical(jax.grad(objective, has_aux=True))(params, statistics, inputs, targets)

    if ghost_batch_size is None:
        return whole

    def in_parts(params: Any, statistics: Any, inputs: Array, targets: Array) -> tuple[Any, Any]:
        count = len(inputs) // ghost_batch_size
        parts = jax.tree.map(lambda x: x.reshape(count, ghost_batch_size, *x.shape[1:]), (inputs, targets))

        def add(carry: tuple[Any, Any], part: tuple[Array, Array]) -> tuple[tuple[Any, Any], None]:
            total, statistics = carry
            gradient, statistics = whole(params, statistics, *part)
            return (jax.tree.map(lambda t, g: t + g / count, total, gradient), statistics), None

        start = (jax.tree.map(jnp.zeros_like, params), statistics)
        return jax.lax.scan(add, start, parts)[0]

    return in_parts
