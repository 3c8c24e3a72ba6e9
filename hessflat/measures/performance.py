"""Loss (nats) and accuracy (share) on clean examples of each split, and the generalisation gaps between them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessflat.measures.subject import Arrays, Scalars, Subject, chunk_size, functions_of

Split = Mapping[str, jax.Array]


def performance(subject: Subject) -> tuple[Scalars, Arrays]:
    """`<split>_loss` and `<split>_accuracy`, without label smoothing or weight decay.

    `gap_loss` is |train − test| as in *On progressive sharpening*, §6; `gap_accuracy` is train − test, signed.
    """
    logits = functions_of(subject.model).logits
    size = chunk_size(subject)
    scalars: Scalars = {}
    if size is None:
        totals = _totals_of_all(logits, subject.params, subject.splits)
    else:
        totals = {name: _in_chunks(logits, subject.params, split, size) for name, split in subject.splits.items()}
    for name, (loss, correct) in totals.items():
        count = len(subject.splits[name]["labels"])
        scalars[f"{name}_loss"] = float(loss) / count
        scalars[f"{name}_accuracy"] = int(correct) / count
    scalars["gap_loss"] = abs(scalars["train_loss"] - scalars["test_loss"])  # type: ignore[operator]
    scalars["gap_accuracy"] = scalars["train_accuracy"] - scalars["test_accuracy"]  # type: ignore[operator]
    return scalars, {}


def _totals(logits_of: Callable, params: Any, split: Split) -> tuple[jax.Array, jax.Array]:
    """Summed loss and number of correct answers."""
    log_probabilities = jax.nn.log_softmax(logits_of(params, split["inputs"]))
    own = jnp.take_along_axis(log_probabilities, split["labels"][:, None], axis=-1)
    return -jnp.sum(own), jnp.sum(jnp.argmax(log_probabilities, axis=-1) == split["labels"])


@partial(jax.jit, static_argnums=0)
def _totals_of_all(logits_of: Callable, params: Any, splits: Mapping[str, Split]) -> dict:
    """One program for every split: a network is not compiled for each of their sizes."""
    return {name: _totals(logits_of, params, split) for name, split in splits.items()}


_totals_compiled = jax.jit(_totals, static_argnums=0)


def _in_chunks(logits_of: Callable, params: Any, split: Split, size: int) -> tuple[float, int]:
    starts = range(0, len(split["labels"]), size)
    chunks = ({key: value[start : start + size] for key, value in split.items()} for start in starts)
    losses, correct = zip(*(_totals_compiled(logits_of, params, chunk) for chunk in chunks), strict=True)
    return float(sum(losses)), int(sum(correct))
