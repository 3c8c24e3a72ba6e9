"""Losses of an example by name, and the targets that outputs are compared with.

To add one: a function and its entry in `LOSSES`, below it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

LossFunction = Callable[[jax.Array, jax.Array], jax.Array]


class Loss(NamedTuple):
    """A loss, the labels that it can be trained with, and what measures ask of it."""

    function: LossFunction  # of outputs [n, C] and targets [n, C], gives [n]
    classes: bool  # labels [n] are integers, made one-hot targets
    real_targets: bool  # labels [n, C] are floats
    logits: bool  # the softmax of the outputs is what the model says; a number added to all outputs changes nothing
    least: Callable[[jax.Array], jax.Array] | None  # of targets [n, C], what no outputs go below [n]; None: 0, unknown


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy of logits and probabilities, both `[n, C]`, in nats: `[n]`."""
    return optax.softmax_cross_entropy(outputs, targets)


def entropy(targets: jax.Array) -> jax.Array:
    """Of probabilities `[n, C]`, in nats: `[n]`."""
    return -jnp.sum(jax.scipy.special.xlogy(targets, targets), axis=-1)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over outputs of the squared differences, both `[n, C]`: `[n]`. Its mean is PyTorch's `MSELoss`."""
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


def exponential(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over outputs of exp(−t f) for real targets t, both `[n, C]`: `[n]`.

    The loss of *Flatness is a False Friend*, §2, exp(f), is that of the target −1.
    """
    return jnp.mean(jnp.exp(-targets * outputs), axis=-1)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, classes=True, real_targets=False, logits=True, least=entropy),
    "squared_error": Loss(squared_error, classes=True, real_targets=True, logits=False, least=None),
    "exponential": Loss(exponential, classes=False, real_targets=True, logits=False, least=None),
}


def losses_by_targets() -> str:
    """The losses that are for one kind of labels alone, in words."""
    classes = [name for name, loss in LOSSES.items() if not loss.real_targets]
    real = [name for name, loss in LOSSES.items() if not loss.classes]
    return f"{', '.join(classes)}: classes alone; {', '.join(real)}: real targets alone"


def are_classes(labels: jax.Array) -> bool:
    """Whether labels are classes `[n]`; they are real targets `[n, C]` otherwise."""
    return jnp.issubdtype(labels.dtype, jnp.integer)


def make_targets(labels: jax.Array, num_classes: int, label_smoothing: jax.Array | float = 0.0) -> jax.Array:
    """(1 − α) one-hot + α / C of classes, α = `label_smoothing`, and real targets as they are: `[n, C]`."""
    if not are_classes(labels):
        return labels
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)
