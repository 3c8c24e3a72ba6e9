"""Loss (nats) and accuracy (share) on clean examples of each split, and the generalisation gaps between them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessflat.measures.subject import Arrays, Scalars, Subject, chunk_size, functions_of


def performance(subject: Subject) -> tuple[Scalars, Arrays]:
    """`<split>_loss` and `<split>_accuracy`, without label smoothing or weight decay.

    `gap_loss` is |train − test| as in *On progressive sharpening*, §6; `gap_accuracy` is train − test, signed.
    """
    totals = partial(_totals, functions_of(subject.model).logits, subject.params)
    scalars: Scalars = {}
    for name, split in subject.splits.items():
        count, size = len(split["labels"]), chunk_size(subject) or len(split["labels"])
        parts = [
            totals({key: value[start : start + size] for key, value in split.items()})
            for start in range(0, count, size)
        ]
        scalars[f"{name}_loss"] = float(sum(loss for loss, _ in parts)) / count
        scalars[f"{name}_accuracy"] = int(sum(correct for _, correct in parts)) / count
    scalars["gap_loss"] = abs(scalars["train_loss"] - scalars["test_loss"])  # type: ignore[operator]
    scalars["gap_accuracy"] = scalars["train_accuracy"] - scalars["test_accuracy"]  # type: ignore[operator]
    return scalars, {}


@partial(jax.jit, static_argnums=0)
def _totals(logits_of: Any, params: Any, split: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Summed loss and number of correct answers."""
    log_probabilities = jax.nn.log_softmax(logits_of(params, split["inputs"]))
    own = jnp.take_along_axis(log_probabilities, split["labels"][:, None], axis=-1)
    return -jnp.sum(own), jnp.sum(jnp.argmax(log_probabilities, axis=-1) == split["labels"])
