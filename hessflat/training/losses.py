"""Losses of an example by name, and what they compare outputs with. To add one: a function and a line in `LOSSES`."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy of logits and probabilities, both `[n, C]`, in nats: `[n]`."""
    return optax.softmax_cross_entropy(outputs, targets)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over outputs of the squared differences, both `[n, C]`: `[n]`. Its mean is PyTorch's `MSELoss`."""
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


def exponential(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over outputs of exp(−t f) for real targets t, both `[n, C]`: `[n]`.

    The loss of *Flatness is a False Friend*, §2, exp(f), is that of the target −1.
    """
    return jnp.mean(jnp.exp(-targets * outputs), axis=-1)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "exponential": exponential,
}
# Which of them can be trained with what kind of labels.
LOSSES_OF_CLASSES = ("cross_entropy", "squared_error")
LOSSES_OF_REAL_TARGETS = ("squared_error", "exponential")


def are_classes(labels: jax.Array) -> bool:
    """Whether labels are classes `[n]`; they are real targets `[n, C]` otherwise."""
    return jnp.issubdtype(labels.dtype, jnp.integer)


def targets_of(labels: jax.Array, num_classes: int, label_smoothing: jax.Array | float = 0.0) -> jax.Array:
    """(1 − α) one-hot + α / C of classes, α = `label_smoothing`, and real targets as they are: `[n, C]`."""
    if not are_classes(labels):
        return labels
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)
