"""The input-output Jacobian of a network, per example."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import precision, probes, trees
from hessflat.errors import InputError


def jacobian_norms(
    predict: Callable,
    params: Any,
    inputs: Array,
    softmax: bool = False,
    batch_size: int | None = None,
) -> np.ndarray:
    """‖∂f(w, x_i)/∂x_i‖₂, the spectral norm, for every example (MacDonald et al. 2023).

    Exact: C vector-Jacobian products give the C rows of J, and the norm is the root of the largest eigenvalue of the
    C × C matrix J Jᵀ.

    Args:
        predict: `predict(params, inputs [n, ...])` -> outputs [n, C]. Each example goes through it on its own, so
            batch norm must be in eval mode.
        params: pytree of arrays.
        inputs: [N, ...] floating.
        softmax: the Jacobian of the softmax of the outputs instead of the outputs themselves.
        batch_size: examples side by side; None takes all.

    Returns:
        [N] norms.

    Raises:
        InputError: inputs that are not floating or not finite, or outputs that are not [n, C].
    """
    params, inputs = trees.as_arrays("params", params), trees.as_arrays("inputs", inputs)
    trees.require_floating("inputs", inputs)
    if not len(inputs):
        raise InputError("inputs must hold at least one example, got 0")
    if batch_size is not None:
        probes.require_count("batch_size", batch_size)
    shape: tuple = getattr(trees.output_of("predict(params, inputs)", predict, params, inputs), "shape", ())
    if len(shape) != 2 or shape[0] != len(inputs):
        raise InputError(f"predict(params, inputs) must have shape ({len(inputs)}, C), got {shape}")
    size = batch_size or len(inputs)
    # The loop over batches is driven from Python: there are few, and one compiled batch serves them all.
    with precision.chosen():
        parts = [_norms(predict, softmax, params, inputs[i : i + size]) for i in range(0, len(inputs), size)]
        return np.concatenate([np.asarray(part) for part in parts])


@partial(jax.jit, static_argnums=(0, 1))
def _norms(predict: Callable, softmax: bool, params: Any, inputs: Array) -> Array:
    def one(x: Array) -> Array:
        outputs = predict(params, x[None])[0]
        return jax.nn.softmax(outputs) if softmax else outputs

    return jax.vmap(lambda x: _spectral_norm(jax.jacrev(one)(x)))(inputs)


def _spectral_norm(jacobian: Array) -> Array:
    """Of J [C, ...]; scaled by its largest entry first, so that a saturated softmax does not underflow."""
    rows = jacobian.reshape(jacobian.shape[0], -1)
    largest = jnp.abs(rows).max()
    rows = rows / jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(rows @ rows.T)[-1], 0))
