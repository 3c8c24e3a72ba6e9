"""What is measured: a state, the data it is measured on, and the functions that turn one into numbers of the other."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hessflat.errors import InputError
from hessflat.models import Model

Scalars = dict[str, float | int | None]
Arrays = dict[str, dict[str, np.ndarray]]
Splits = Mapping[str, Mapping[str, jax.Array]]


class Functions(NamedTuple):
    """Pure functions of one model, made once, so that what is compiled for a checkpoint serves the next one.

    A batch is `{"inputs": [n, ...], "targets": [n, C]}`; targets are smoothed one-hot labels, for label smoothing is
    part of the measured loss. Weight decay, mixup and augmentation are not.
    """

    logits: Callable[[Any, jax.Array], jax.Array]
    predict: Callable[[Any, Mapping[str, jax.Array]], jax.Array]
    criterion: Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]
    loss: Callable[[Any, Mapping[str, jax.Array]], jax.Array]


class Subject(NamedTuple):
    """One trained state. `splits` are train, validation (may be absent) and test, each inputs and labels."""

    model: Model
    params: Any
    splits: Splits
    num_classes: int
    label_smoothing: float
    settings: Mapping[str, Any]
    is_last: bool


@cache
def functions_of(model: Model) -> Functions:
    """The functions of a model, the same objects each time."""

    def logits(params: Any, inputs: jax.Array) -> jax.Array:
        return model.apply(params, {}, inputs, False)[0]

    def predict(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        return logits(params, batch["inputs"])

    def criterion(outputs: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy(outputs, batch["targets"]))

    def loss(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        return criterion(predict(params, batch), batch)

    return Functions(logits, predict, criterion, loss)


def curvature_data(subject: Subject) -> dict[str, jax.Array]:
    """The clean training examples that curvature is measured on, with their smoothed targets."""
    count = subject.settings["examples"] or None
    available = len(subject.splits["train"]["labels"])
    if count is not None and count > available:
        raise InputError(f"config.measure.examples must be at most {available}, the training split, got {count}")
    labels = jax.nn.one_hot(subject.splits["train"]["labels"][:count], subject.num_classes)
    targets = optax.smooth_labels(labels, subject.label_smoothing)
    return {"inputs": subject.splits["train"]["inputs"][:count], "targets": targets}


def chunk_size(subject: Subject) -> int | None:
    """Examples that one product takes at once; None is all of them."""
    return subject.settings["batch_size"] or None
