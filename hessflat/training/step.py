"""One step of training, a pure function of the state and a batch, and the averages over steps.

Another update is another function with the signature of `train_step`: `make_trainer(config, ..., step=yours)`.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from hessflat.models import Model
from hessflat.training.gradients import Batch, Gradient, sam_perturb


class Hyperparams(NamedTuple):
    """The numbers that are traced: scalars, or `[runs]` where runs train together.

    A regulariser that is not compiled into the trainer is None inside a step.
    """

    learning_rate: jax.Array
    l2: jax.Array
    label_smoothing: jax.Array
    seed: jax.Array
    sam_radius: jax.Array | None
    mixup: jax.Array | None
    augment: jax.Array | None


class TrainState(struct.PyTreeNode):
    """What a step changes. Randomness needs no state: it is drawn from the key of (seed, step)."""

    step: jax.Array
    params: Any
    batch_stats: Any  # running averages of batch normalisation; an empty dict without it
    opt_state: Any
    average: Any  # mean of the iterates from `train.average_from` on; an empty dict where none is taken


class Step(Protocol):
    """What `train_step` is."""

    def __call__(
        self,
        state: TrainState,
        batch: Batch,
        hyperparams: Hyperparams,
        *,
        gradient: Gradient,
        optimiser: optax.GradientTransformation,
        average_from: int,
    ) -> TrainState: ...


def train_step(
    state: TrainState,
    batch: Batch,
    hyperparams: Hyperparams,
    *,
    gradient: Gradient,
    optimiser: optax.GradientTransformation,
    average_from: int,
) -> TrainState:
    """The state after one update.

    Args:
        state: before the step.
        batch: inputs `[n, ...]` and targets `[n, C]`, augmented and mixed.
        hyperparams: of the run; the learning rate and L2 are in `optimiser` already.
        gradient: of the mean loss of a batch; it also gives the batch-norm statistics after its forward pass.
        optimiser: turns the gradient into an update.
        average_from: the step after which iterates are averaged; 0: they are not.
    """
    grads, batch_stats = gradient(state.params, state.batch_stats, batch)
    if hyperparams.sam_radius is not None:
        perturbed = sam_perturb(state.params, grads, hyperparams.sam_radius)
        grads, _ = gradient(perturbed, state.batch_stats, batch)
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step, average = state.step + 1, state.average
    if average_from:
        average = update_average(average, params, step - average_from)
    return TrainState(step, params, batch_stats, opt_state, average)


def update_average(average: Any, params: Any, count: jax.Array) -> Any:
    """The mean of `count` iterates, from the mean of the first `count` − 1 and the newest; below 1, the newest."""
    share = 1 / jnp.maximum(count, 1)
    return jax.tree.map(lambda mean, new: mean + share.astype(mean.dtype) * (new - mean), average, params)


def update_batch_stats(model: Model, batch_size: int, params: Any, batch_stats: Any, inputs: jax.Array) -> Any:
    """Running averages of batch norm for `params`: the mean over the training inputs of those of whole batches.

    Those that training left behind belong to the iterates, not to their mean (*Flatness is a False Friend*, §5). The
    examples that fill no batch of `batch_size` are left out, unless there is no whole batch. `batch_stats` gives the
    shapes alone.
    """
    size = min(batch_size, len(inputs))
    count = len(inputs) // size
    zeros, ones = jax.tree.map(jnp.zeros_like, batch_stats), jax.tree.map(jnp.ones_like, batch_stats)

    def updated(batch_stats: Any, start: jax.Array | int) -> Any:
        return model.apply(params, batch_stats, jax.lax.dynamic_slice_in_dim(inputs, start, size), True)[1]

    def add(total: Any, start: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, updated(zeros, start)), None

    total = jax.lax.scan(add, zeros, size * jnp.arange(count))[0]
    # An updated average is decay · old + (1 − decay) · that of the batch, whatever the model's decay is.
    decay = jax.tree.map(jnp.subtract, updated(ones, 0), updated(zeros, 0))
    return jax.tree.map(lambda t, d: t / (count * (1 - d)), total, decay)
