"""Loss (nats) and accuracy (share) on clean examples of each split, and the generalisation gaps between them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessflat.measures.size import size
from hessflat.measures.subject import Measured, Scalars, Splits, Subject, chunk_size, functions_of

Split = Mapping[str, jax.Array]


def performance(subject: Subject) -> Measured:
    """`<split>_loss` and `<split>_accuracy`, without label smoothing or weight decay; and `size`.

    `gap_loss` is |train − test| as in *On progressive sharpening*, §6; `gap_accuracy` is train − test, signed.
    """
    scalars: Scalars = {}
    found = losses_and_accuracies(subject, list(subject.splits))
    for name, (loss, accuracy) in found.items():
        scalars |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
    (train_loss, train_accuracy), (test_loss, test_accuracy) = found["train"], found["test"]
    scalars |= {"gap_loss": abs(train_loss - test_loss), "gap_accuracy": train_accuracy - test_accuracy}
    return Measured(scalars | size(subject), {})


def losses_and_accuracies(subject: Subject, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean loss and share of right answers on the splits of these names."""
    logits, params, statistics = functions_of(subject.model).logits, subject.params, subject.statistics
    splits, size = {name: subject.splits[name] for name in names}, chunk_size(subject)
    if size is None:
        totals = _totals_of_all(logits, params, statistics, splits)
    else:
        totals = {name: _in_chunks(logits, params, statistics, split, size) for name, split in splits.items()}
    counts = {name: len(split["labels"]) for name, split in splits.items()}
    return {name: (float(loss) / counts[name], int(right) / counts[name]) for name, (loss, right) in totals.items()}


def _totals(logits_of: Callable, params: Any, statistics: Any, split: Split) -> tuple[jax.Array, jax.Array]:
    """Summed loss and number of correct answers."""
    log_probabilities = jax.nn.log_softmax(logits_of(params, split["inputs"], statistics))
    own = jnp.take_along_axis(log_probabilities, split["labels"][:, None], axis=-1)
    return -jnp.sum(own), jnp.sum(jnp.argmax(log_probabilities, axis=-1) == split["labels"])


@partial(jax.jit, static_argnums=0)
def _totals_of_all(logits_of: Callable, params: Any, statistics: Any, splits: Splits) -> dict:
    """One program for every split: a network is not compiled for each of their sizes."""
    return {name: _totals(logits_of, params, statistics, split) for name, split in splits.items()}


_totals_compiled = jax.jit(_totals, static_argnums=0)


def _in_chunks(logits_of: Callable, params: Any, statistics: Any, split: Split, size: int) -> tuple[float, int]:
    starts = range(0, len(split["labels"]), size)
    chunks = ({key: value[start : start + size] for key, value in split.items()} for start in starts)
    losses, right = zip(*(_totals_compiled(logits_of, params, statistics, chunk) for chunk in chunks), strict=True)
    return float(sum(losses)), int(sum(right))
