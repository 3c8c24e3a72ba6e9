"""How large the outputs are, and the loss less what no model can be without: *On progressive sharpening*, §5, C.1."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.measures.eval_state import EvalState, curvature_batches, modes_by_suffix
from hessflat.measures.measurement import Measure, Measurement, Scalars


def outputs(state: EvalState) -> Measurement:
    """`outputs.frobenius`, ‖F(X)‖_F over the measured examples [n, C], and `outputs.loss`, of the measured targets.

    Of cross-entropy also `outputs.excess_loss`, the mean loss less the mean entropy of the targets, in nats: the mean
    Kullback-Leibler divergence, whose smallest value is 0 whatever the label smoothing. Names start with `outputs_eval`
    where batch norm was in eval mode.
    """
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
        if state.loss == "cross_entropy":
            scalars[f"{prefix}.excess_loss"] = loss - float(_entropy(batches.arrays["targets"]))
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


@jax.jit
def _entropy(targets: jax.Array) -> jax.Array:
    """The mean over examples, in nats, of probabilities [n, C]."""
    return -jnp.mean(jnp.sum(jax.scipy.special.xlogy(targets, targets), axis=-1))


MEASURE = Measure(
    outputs,
    cost=lambda settings, num_params: 1,
    doc="‖F(X)‖_F and the loss less the targets' entropy are measured",
    names={
        "outputs.frobenius": ("‖F(X)‖_F", r"$\|F(X)\|_F$"),
        "outputs.loss": "loss of the measured targets (nats)",
        "outputs.excess_loss": "loss less label entropy (nats)",
    },
)
