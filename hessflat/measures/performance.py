"""Loss (of cross-entropy in nats) and accuracy (share) on clean examples of each split, and the gaps between them.

Also which answers are right, from which accuracies get their intervals.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from hessflat.measures.eval_state import EvalState, Splits, chunk_size
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.models import input_size, num_neurons, num_params
from hessflat.training.optimisation import LOSSES, LossFunction, are_classes, make_targets
from hessflat.utils import hardware

Split = Mapping[str, jax.Array]
Functions = tuple[Callable, LossFunction, Mesh | None]  # logits, loss, and the mesh that shares the examples
Arguments = tuple[float, Any, Any]  # label smoothing, parameters, batch_stats


def performance(state: EvalState) -> Measurement:
    """`<split>_loss` and, of classes, `<split>_accuracy`, without label smoothing or weight decay; and `model_size`.

    `gap_loss` is |train − test| as in *On progressive sharpening*, §6; `gap_accuracy` is train − test, signed. Of
    classes, `smoothed_<split>_loss` and `smoothed_gap_loss` are of the smoothed labels that the run is trained with,
    as in B.3 there. Of tokens, means are by their weights, and accuracy is the share of those that count.
    """
    scalars: Scalars = {}
    names = list(state.splits)
    clean = losses_and_accuracies(state, names)
    for name, (loss, accuracy) in clean.items():
        scalars |= {f"{name}_loss": loss} | ({} if accuracy is None else {f"{name}_accuracy": accuracy})
    (train_loss, train_accuracy), (test_loss, test_accuracy) = clean["train"], clean["test"]
    scalars["gap_loss"] = abs(train_loss - test_loss)
    if train_accuracy is not None and test_accuracy is not None:
        scalars["gap_accuracy"] = train_accuracy - test_accuracy
        smoothing = state.label_smoothing
        smoothed = losses_and_accuracies(state, names, smoothing) if smoothing else clean
        scalars |= {f"smoothed_{name}_loss": smoothed[name][0] for name in names}
        scalars["smoothed_gap_loss"] = abs(smoothed["train"][0] - smoothed["test"][0])
    return Measurement(scalars | model_size(state), {})


def answers(state: EvalState) -> Measurement:
    """Array file `answers`, of each split but the training one, and of classes alone.

    `<split>` has a bit for each example, eight to a byte, `<split>_size` their number. `<split>_labels` is the CRC-32
    of the labels, by which runs know whether they were asked the same examples. Tokens of one row are no independent
    examples, so of them nothing is stored.
    """
    if state.has_tokens:
        return Measurement({}, {})
    # Of all splits, so that the program is that of `performance`.
    right = {name: one for name, (_, one) in losses_and_answers(state, list(state.splits)).items() if name != "train"}
    arrays = {}
    for name, one in right.items():
        if one is not None:
            labels = np.ascontiguousarray(hardware.on_host(state.splits[name]["labels"]), np.int32)
            arrays[name], arrays[f"{name}_size"] = np.packbits(one), np.array(len(one))
            arrays[f"{name}_labels"] = np.array(zlib.crc32(labels.tobytes()))
    return Measurement({}, {"answers": arrays} if arrays else {})


def losses_and_accuracies(
    state: EvalState, names: Sequence[str], label_smoothing: float = 0.0
) -> dict[str, tuple[float, float | None]]:
    """Mean loss and share of right answers on the splits of these names; of real targets no answer is right."""
    answers = losses_and_answers(state, names, label_smoothing)
    return {
        name: (loss, None if right is None else int(right.sum()) / len(right))
        for name, (loss, right) in answers.items()
    }


def losses_and_answers(
    state: EvalState, names: Sequence[str], label_smoothing: float = 0.0
) -> dict[str, tuple[float, np.ndarray | None]]:
    """Mean loss on the splits of these names, and which answers are right `[n]`; None for real targets.

    Of tokens, the mean is by weights, and answers are those of all tokens that count, in a row.
    """
    functions = (state.functions().logits, LOSSES[state.loss].function, hardware.make_mesh(state.devices))
    arguments = (label_smoothing, state.params, state.batch_stats)
    splits, size = {name: state.splits[name] for name in names}, chunk_size(state)
    with jax.default_matmul_precision(state.protocol.precision):
        if size is None:
            totals = _totals_by_split(functions, arguments, splits)
        else:
            totals = {name: _in_chunks(functions, arguments, split, size) for name, split in splits.items()}
    return {name: _of_split(splits[name], loss, right) for name, (loss, right) in totals.items()}


def _of_split(split: Split, loss: Any, right: Any) -> tuple[float, np.ndarray | None]:
    """The mean of a summed loss, and the answers."""
    if "weights" in split:
        weights = hardware.on_host(split["weights"])
        return float(loss) / float(weights.sum(dtype=np.float64)), hardware.on_host(right)[weights > 0]
    return float(loss) / len(right), hardware.on_host(right) if are_classes(split["labels"]) else None


def _totals(functions: Functions, arguments: Arguments, split: Split) -> tuple[jax.Array, jax.Array]:
    """Summed loss, by weights of tokens, and which answers are right `[n]`: none where labels are real targets.

    The devices share the examples whatever their number, and each has all answers.
    """
    (logits, loss, mesh), (label_smoothing, params, batch_stats) = functions, arguments
    split = hardware.shard_batch(dict(split), mesh)
    outputs, labels = logits(params, split["inputs"], batch_stats), split["labels"]
    losses = loss(outputs, make_targets(labels, outputs.shape[-1], label_smoothing))
    total = jnp.sum(losses * split["weights"] if "weights" in split else losses)
    right = jnp.argmax(outputs, axis=-1) == labels if are_classes(labels) else jnp.zeros(len(labels), bool)
    return total, right if mesh is None else jax.lax.with_sharding_constraint(right, hardware.everywhere(mesh))


@partial(jax.jit, static_argnums=0)
def _totals_by_split(functions: Functions, arguments: Arguments, splits: Splits) -> dict:
    """One program for every split: a network is not compiled for each of their sizes."""
    return {name: _totals(functions, arguments, split) for name, split in splits.items()}


@partial(jax.jit, static_argnums=(0, 4))
def _totals_of_chunk(
    functions: Functions, arguments: Arguments, split: Split, start: int, size: int
) -> tuple[jax.Array, jax.Array]:
    chunk = {key: jax.lax.dynamic_slice_in_dim(value, start, size) for key, value in split.items()}
    return _totals(functions, arguments, chunk)


def _in_chunks(functions: Functions, arguments: Arguments, split: Split, size: int) -> tuple[float, np.ndarray]:
    number, totals = len(split["labels"]), []
    for start in range(0, number, size):
        part = _totals_of_chunk(functions, arguments, split, start, min(size, number - start))
        # On CPUs two programs that sum over devices can wait for each other for ever.
        totals.append(jax.block_until_ready(part))
    losses, right = zip(*totals, strict=True)
    return float(sum(losses)), np.concatenate(right)


def rank_bound(num_classes: int, neurons: int, inputs: int) -> int:
    """4 d_y (Σ_l N_l + d_x): *Flatness is a False Friend*, §3.2. It may exceed P, and then says nothing.

    The paper states it for the Hessian of any feed-forward network and any number of examples N. It holds for linear
    networks, and for ReLU networks on inputs of one activation pattern, where (d_y − 1)(d_x + 1 + 2M) is enough, M the
    hidden units. It fails for others once there are examples enough: in general the rank is at most N (d_y − 1 + 2M),
    and at most P less the directions of the last layer that change all logits alike; see `docs/rank_bound.md`.
    """
    return 4 * num_classes * (neurons + inputs)


def model_size(state: EvalState) -> Scalars:
    """‖w‖₂, P, the rank bound from the model's own layers, and the zero mass 1 − rank/P that it promises at least.

    The bound is for feed-forward networks: of tokens there is none.
    """
    count = num_params(state.params)
    sizes: Scalars = {"weight_norm": float(_norm(state.params)), "num_params": count}
    if state.has_tokens:
        return sizes
    rank = rank_bound(state.num_classes, num_neurons(state.params), input_size(state.splits["train"]["inputs"]))
    return sizes | {"rank_bound": rank, "zero_mass_bound": max(0.0, 1 - rank / count)}


_norm = jax.jit(optax.tree.norm)


MEASURES = {
    "performance": Measure(
        performance,
        cost=lambda settings, num_params: 1,
        doc="losses, accuracies and norms are measured",
        due="growth",
        for_tokens=True,
        names={
            "train_loss": "training loss (nats)",
            "validation_loss": "validation loss (nats)",
            "test_loss": "test loss (nats)",
            "train_accuracy": "training accuracy",
            "validation_accuracy": "validation accuracy",
            "test_accuracy": "test accuracy",
            "gap_loss": "generalisation gap (nats)",
            "gap_accuracy": "accuracy gap",
            "smoothed_train_loss": "training loss (nats)",
            "smoothed_gap_loss": "generalisation gap (nats)",
            "weight_norm": ("‖w‖₂", r"$\|w\|_2$"),
            "rank_bound": "rank bound",
            "zero_mass_bound": "zero-mass bound",
        },
    ),
    "answers": Measure(
        answers,
        cost=lambda settings, num_params: 1,
        doc="the correctness of each validation and test example is stored",
        due="end",
        for_tokens=True,
    ),
}
