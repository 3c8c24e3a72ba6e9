"""How large the outputs are, and the loss less what no model can be without: *On progressive sharpening*, §5, C.1."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.measures.subject import Measured, Scalars, Subject, batches_of, functions_of, modes_of


def outputs(subject: Subject) -> Measured:
    """`outputs.frobenius`, ‖F(X)‖_F over the measured examples [n, C], and `outputs.loss`, of the measured targets.

    Of cross-entropy also `outputs.excess_loss`, the mean loss less the mean entropy of the targets, in nats: the mean
    Kullback-Leibler divergence, whose smallest value is 0 whatever the label smoothing. Names start with `outputs_eval`
    where batch norm was in eval mode.
    """
    scalars: Scalars = {}
    for suffix, mode in modes_of(subject.settings, subject.statistics).items():
        functions, batches = functions_of(subject.model, subject.loss, mode), batches_of(subject, mode)
        squares, losses = 0.0, 0.0
        for batch, size in _cut(batches):
            square, loss = _square_and_loss(
                functions.predict, functions.criterion, subject.params, batch, subject.statistics
            )
            squares, losses = squares + float(square), losses + size * float(loss)
        prefix, loss = f"outputs{suffix}", losses / batches.num_examples
        scalars |= {f"{prefix}.frobenius": squares**0.5, f"{prefix}.loss": loss}
        if subject.loss == "cross_entropy":
            scalars[f"{prefix}.excess_loss"] = loss - float(_entropy(batches.arrays["targets"]))
    return Measured(scalars, {})


def _cut(batches: cv.Batches) -> list[tuple[Any, int]]:
    """Every batch with its size; in train mode one for every group that shares statistics."""
    step = batches.statistics_batch or batches.size
    starts = range(0, batches.num_examples, step)
    return [(batches.take(start, size := min(step, batches.num_examples - start)), size) for start in starts]


@partial(jax.jit, static_argnums=(0, 1))
def _square_and_loss(
    predict: Callable, criterion: Callable, params: Any, batch: Mapping[str, jax.Array], statistics: Any
) -> tuple[jax.Array, jax.Array]:
    found = predict(params, batch, statistics)
    return jnp.sum(jnp.square(found)), criterion(found, batch, statistics)


@jax.jit
def _entropy(targets: jax.Array) -> jax.Array:
    """The mean over examples, in nats, of probabilities [n, C]."""
    return -jnp.mean(jnp.sum(jax.scipy.special.xlogy(targets, targets), axis=-1))
