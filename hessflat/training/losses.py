"""Losses of logits `[n, C]` and targets `[n, C]`, in nats."""

import jax
import jax.numpy as jnp
import optax


def targets_of(labels: jax.Array, num_classes: int, label_smoothing: jax.Array | float = 0.0) -> jax.Array:
    """(1 − α) one-hot + α / C of labels `[n]`, α = `label_smoothing`: `[n, C]`."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy."""
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of examples whose largest logit is the label's."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)
