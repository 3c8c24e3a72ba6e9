"""How large the outputs are, and the loss less what no model can be without: *On progressive sharpening*, §5, C.1."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.measures.eval_state import EvalState, curvature_batches, modes_by_suffix
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.training.optimisation import LOSSES
from hessflat.utils.errors import InputError


def outputs(state: EvalState) -> Measurement:
    """`outputs.frobenius`, ‖F(X)‖_F over the measured examples [n, C], and `outputs.loss`, of the measured targets.

    Where the entry of the loss in `LOSSES` says what its `least` is for targets, also `outputs.excess_loss`, the mean
    loss less that. Of cross-entropy it is the mean Kullback-Leibler divergence, in nats, whose smallest value is 0
    whatever the label smoothing. Names start with `outputs_eval` where batch norm was in eval mode.

    Raises:
        InputError: a loss below its `least`.
    """
    least_of = LOSSES[state.loss].least
    scalars: Scalars = {}
    for suffix, mode in modes_by_suffix(state.protocol, state.batch_stats).items():
        functions, batches = state.functions(mode), curvature_batches(state, mode)
        squares, losses = 0.0, 0.0
        for batch, size in _cut(batches):
            square, loss = _square_and_loss(
                functions.predict, functions.criterion, state.params, batch, state.batch_stats
            )
            squares, losses = squares + float(square), losses + size * float(loss)
        prefix, loss = f"outputs{suffix}", losses / batches.num_examples
        scalars |= {f"{prefix}.frobenius": squares**0.5, f"{prefix}.loss": loss}
        if least_of is not None:
            least = float(_mean_least(least_of, batches.arrays["targets"]))
            if loss < least - 1e-3 * max(1.0, abs(least)):  # more than rounding
                raise InputError(
                    f"the loss {state.loss!r} is {loss:g}, below {least:g}, the least that its entry in LOSSES of "
                    "training/optimisation.py gives for these targets; mend `least` there, or set it to None"
                )
            scalars[f"{prefix}.excess_loss"] = loss - least
    return Measurement(scalars, {})


def _cut(batches: cv.Batches) -> list[tuple[Any, int]]:
    """Every batch with its size; in train mode one for every group that shares batch statistics."""
    step = batches.statistics_batch or batches.size
    starts = range(0, batches.num_examples, step)
    return [(batches.take(start, size := min(step, batches.num_examples - start)), size) for start in starts]


@partial(jax.jit, static_argnums=(0, 1))
def _square_and_loss(
    predict: Callable, criterion: Callable, params: Any, batch: Mapping[str, jax.Array], batch_stats: Any
) -> tuple[jax.Array, jax.Array]:
    outputs = predict(params, batch, batch_stats)
    return jnp.sum(jnp.square(outputs)), criterion(outputs, batch, batch_stats)


@partial(jax.jit, static_argnums=0)
def _mean_least(least: Callable[[jax.Array], jax.Array], targets: jax.Array) -> jax.Array:
    return jnp.mean(least(targets))


MEASURE = Measure(
    outputs,
    cost=lambda settings, num_params: 1,
    doc="‖F(X)‖_F and the loss less its minimum for the targets are measured",
    names={
        "outputs.frobenius": ("‖F(X)‖_F", r"$\|F(X)\|_F$"),
        "outputs.loss": "loss of the measured targets (nats)",
        "outputs.excess_loss": "loss less label entropy (nats)",
    },
)
