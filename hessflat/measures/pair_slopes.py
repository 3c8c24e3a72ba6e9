"""How steep a function must be to fit its targets: *On progressive sharpening*, eq. 11 (34 in C.2), in eval mode."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.measures.eval_state import EvalState, FlatnessExamples, flatness_data
from hessflat.measures.measurement import Measure, Measurement
from hessflat.training.optimisation import LOSSES
from hessflat.utils.errors import InputError


def pair_slopes(state: EvalState, *, flatness_examples: FlatnessExamples = 512) -> Measurement:
    """Lower bounds on the Lipschitz norm of what is compared with the targets, over pairs of measured examples.

    With g(x) the outputs, softmaxed where they are logits of the loss, y the (smoothed) targets and
    ε_i = ‖g(x_i) − y_i‖₂: `pair_slopes.targets` is the largest (‖y_i − y_j‖₂ − ε_i − ε_j) / ‖x_i − x_j‖₂, and
    `pair_slopes.outputs` the largest ‖g(x_i) − g(x_j)‖₂ / ‖x_i − x_j‖₂, which is at least that. The paper's ε is one
    for all examples; with one for each the bound is never lower. While training has not begun to fit, it is below 0 and
    says nothing. Pairs of equal inputs are left out. Of fewer examples both are still bounds.

    Raises:
        InputError: no two examples of different inputs.
    """
    data = flatness_data(state, flatness_examples)
    softmaxed = LOSSES[state.loss].logits
    logits = state.functions().logits
    steepest = _steepest(logits, softmaxed, state.params, data["inputs"], data["targets"], state.batch_stats)
    if not np.isfinite(float(steepest["outputs"])):
        raise InputError("slopes need two examples of different inputs; set measure.pair_slopes to 'never'")
    return Measurement({f"pair_slopes.{name}": float(value) for name, value in steepest.items()}, {})


@partial(jax.jit, static_argnums=(0, 1))
def _steepest(
    logits: Callable, softmaxed: bool, params: Any, inputs: jax.Array, targets: jax.Array, batch_stats: Any
) -> dict[str, jax.Array]:
    """The largest of both slopes over all pairs; a row of pairs at a time, for differences of inputs are large."""
    outputs = logits(params, inputs, batch_stats)
    outputs = jax.nn.softmax(outputs) if softmaxed else outputs
    flat = inputs.reshape(len(inputs), -1)
    errors = jnp.linalg.norm(outputs - targets, axis=-1)

    def of_row(row: tuple[jax.Array, ...]) -> jax.Array:
        x, g, y, error = row
        distances = jnp.linalg.norm(flat - x[None], axis=-1)
        apart = jnp.linalg.norm(targets - y[None], axis=-1) - errors - error
        rises = jnp.linalg.norm(outputs - g[None], axis=-1)
        slopes = [jnp.where(distances > 0, rise / distances, -jnp.inf) for rise in (apart, rises)]
        return jnp.stack(slopes).max(axis=-1)

    by_targets, by_outputs = jax.lax.map(of_row, (flat, outputs, targets, errors)).max(axis=0)
    return {"targets": by_targets, "outputs": by_outputs}


MEASURE = Measure(
    pair_slopes,
    cost=lambda settings, num_params: 1,
    doc="the steepest slopes between two examples are measured, in eval mode",
    names={
        "pair_slopes.targets": "least slope that fits the targets (eq. 11 of M)",
        "pair_slopes.outputs": "steepest slope between two examples",
    },
)
