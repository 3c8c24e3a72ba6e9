"""Loss (of cross-entropy in nats) and accuracy (share) on clean examples of each split, and the gaps between them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessflat.measures.size import size
from hessflat.measures.subject import Measured, Scalars, Splits, Subject, chunk_size, functions_of
from hessflat.training.losses import LOSSES, LossFunction, are_classes, make_targets

Split = Mapping[str, jax.Array]


def performance(subject: Subject) -> Measured:
    """`<split>_loss` and, of classes, `<split>_accuracy`, without label smoothing or weight decay; and `size`.

    `gap_loss` is |train − test| as in *On progressive sharpening*, §6; `gap_accuracy` is train − test, signed. Of
    classes, `smoothed_<split>_loss` and `smoothed_gap_loss` are of the smoothed labels that the run is trained with,
    as in B.3 there.
    """
    scalars: Scalars = {}
    names = list(subject.splits)
    found = losses_and_accuracies(subject, names)
    for name, (loss, accuracy) in found.items():
        scalars |= {f"{name}_loss": loss} | ({} if accuracy is None else {f"{name}_accuracy": accuracy})
    (train_loss, train_accuracy), (test_loss, test_accuracy) = found["train"], found["test"]
    scalars["gap_loss"] = abs(train_loss - test_loss)
    if train_accuracy is not None and test_accuracy is not None:
        scalars["gap_accuracy"] = train_accuracy - test_accuracy
        smoothing = subject.label_smoothing
        smoothed = losses_and_accuracies(subject, names, smoothing) if smoothing else found
        scalars |= {f"smoothed_{name}_loss": smoothed[name][0] for name in names}
        scalars["smoothed_gap_loss"] = abs(smoothed["train"][0] - smoothed["test"][0])
    return Measured(scalars | size(subject), {})


def losses_and_accuracies(
    subject: Subject, names: Sequence[str], label_smoothing: float = 0.0
) -> dict[str, tuple[float, float | None]]:
    """Mean loss and share of right answers on the splits of these names; of real targets no answer is right."""
    totals_of = (functions_of(subject.model, subject.loss).logits, LOSSES[subject.loss].function)
    state = (label_smoothing, subject.params, subject.statistics)
    splits, size = {name: subject.splits[name] for name in names}, chunk_size(subject)
    if size is None:
        totals = _totals_of_all(*totals_of, *state, splits)
    else:
        totals = {name: _in_chunks(*totals_of, *state, split, size) for name, split in splits.items()}
    found: dict[str, tuple[float, float | None]] = {}
    for name, (loss, right) in totals.items():
        count = len(splits[name]["labels"])
        found[name] = float(loss) / count, int(right) / count if are_classes(splits[name]["labels"]) else None
    return found


def _totals(
    outputs_of: Callable, loss: LossFunction, label_smoothing: float, params: Any, statistics: Any, split: Split
) -> tuple[jax.Array, jax.Array | int]:
    """Summed loss and number of correct answers."""
    outputs, labels = outputs_of(params, split["inputs"], statistics), split["labels"]
    total = jnp.sum(loss(outputs, make_targets(labels, outputs.shape[-1], label_smoothing)))
    return total, jnp.sum(jnp.argmax(outputs, axis=-1) == labels) if are_classes(labels) else 0


@partial(jax.jit, static_argnums=(0, 1))
def _totals_of_all(
    outputs_of: Callable, loss: LossFunction, label_smoothing: float, params: Any, statistics: Any, splits: Splits
) -> dict:
    """One program for every split: a network is not compiled for each of their sizes."""
    state = (label_smoothing, params, statistics)
    return {name: _totals(outputs_of, loss, *state, split) for name, split in splits.items()}


_totals_compiled = jax.jit(_totals, static_argnums=(0, 1))


def _in_chunks(
    outputs_of: Callable,
    loss: LossFunction,
    label_smoothing: float,
    params: Any,
    statistics: Any,
    split: Split,
    size: int,
) -> tuple[float, int]:
    starts = range(0, len(split["labels"]), size)
    chunks = ({key: value[start : start + size] for key, value in split.items()} for start in starts)
    state = (label_smoothing, params, statistics)
    totals = (_totals_compiled(outputs_of, loss, *state, chunk) for chunk in chunks)
    losses, right = zip(*totals, strict=True)
    return float(sum(losses)), int(sum(right))
