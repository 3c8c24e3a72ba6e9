"""One step of training, a pure function of the state and a batch; the gradient that it takes; averages over steps.

Another update is another function with the signature of `train_step`: `make_trainer(config, ..., step=yours)`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from hessflat.models import Model
from hessflat.training.optimisation import LossFunction, mean_over
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

    inputs: jax.Array  # [n, ...]
    targets: jax.Array  # [n, C], or [n, T, V] of tokens
    weights: jax.Array | None = None  # [n, T], how much each token counts
    key: jax.Array | None = None  # of dropout, for models of tokens


# (params, batch_stats, batch) -> (gradient of the mean loss, batch_stats)
Gradient = Callable[[Any, Any, Batch], tuple[Any, Any]]


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
        batch: inputs `[n, ...]` and targets `[n, C]`, augmented and mixed; of tokens also weights and a key.
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
) -> tuple[jax.Array, Any]:
    """The mean loss of a batch in train mode, and the batch-norm statistics after it."""
    inputs, targets, weights, key = batch
    if precision == "bfloat16":
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        inputs = inputs if jnp.issubdtype(inputs.dtype, jnp.integer) else inputs.astype(jnp.bfloat16)
    outputs, batch_stats = model.apply(params, batch_stats, inputs, True, *(() if key is None else (key,)))
    return mean_over(loss(outputs.astype(targets.dtype), targets), weights), batch_stats


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
    the batch, which has no weights.
    """
    count = len(batch.inputs) // size
    parts = jax.tree.map(lambda x: x.reshape(count, size, *x.shape[1:]), batch)

    def add(carry: tuple[Any, Any], part: Batch) -> tuple[tuple[Any, Any], None]:
        total, batch_stats = carry
        grads, batch_stats = gradient(params, batch_stats, part)
        return (jax.tree.map(lambda t, g: t + g / count, total, grads), batch_stats), None

    start = (jax.tree.map(jnp.zeros_like, params), batch_stats)
    return jax.lax.scan(add, start, parts)[0]


def sam_perturb(params: Any, gradient: Any, radius: jax.Array | float) -> Any:
    """W + ρ g / ‖g‖, ρ = `radius`; w itself where the gradient is zero, or ρ is.

    Sharpness-aware minimisation (Foret et al. 2021) takes its gradient there, where the loss rises fastest nearby.
    """
    norm = optax.tree.norm(gradient)
    scale = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda w, g: w + (scale * g).astype(w.dtype), params, gradient)
