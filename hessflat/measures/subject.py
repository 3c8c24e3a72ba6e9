"""What is measured: a state, the data it is measured on, and the functions that turn one into numbers of the other."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from hessflat.models import Model
from hessflat.training import sharding
from hessflat.training.losses import LOSSES, make_targets
from hessflat.utils.errors import InputError

Scalars = dict[str, float | int | None]
Arrays = dict[str, dict[str, np.ndarray]]
Splits = Mapping[str, Mapping[str, jax.Array]]


class Functions(NamedTuple):
    """Pure functions of one model, made once, so that what is compiled for a checkpoint serves the next one.

    A batch is `{"inputs": [n, ...], "targets": [n, C]}`; targets are real, or smoothed one-hot labels, for label
    smoothing is part of the measured loss. Weight decay, mixup and augmentation are not. `statistics` are those of
    batch norm, which eval mode uses; train mode takes those of the batch.
    """

    logits: Callable[..., jax.Array]  # (params, inputs, statistics)
    predict: Callable[..., jax.Array]  # (params, batch, statistics)
    criterion: Callable[..., jax.Array]  # (logits, batch, statistics)
    loss: Callable[..., jax.Array]  # (params, batch, statistics)


class Subject(NamedTuple):
    """One trained state. `splits` are train, validation (may be absent) and test, each inputs and labels."""

    model: Model
    params: Any
    statistics: Any  # of batch norm; an empty dict for a model without it
    splits: Splits
    num_classes: int
    loss: str
    label_smoothing: float
    settings: Mapping[str, Any]
    starts: Mapping[str, jax.Array]  # where extremal eigenvectors are looked for; zeros: anywhere
    devices: int  # that examples are spread over, as `config.devices`
    first_params: Callable[[], Any]  # makes the weights that the run started from, for the measures that compare
    data: Mapping[str, Any] = MappingProxyType({})  # the settings of the data set, for measures that draw more of it


class Measured(NamedTuple):
    """Scalars by name, arrays by file name, and where the next search for eigenvectors starts (None: as before)."""

    scalars: Scalars
    arrays: Arrays
    starts: Mapping[str, jax.Array] | None = None


@cache
def functions_of(model: Model, loss: str, mode: str = "eval") -> Functions:
    """The functions of a model with batch norm in `mode` and a loss by name, the same objects each time."""

    def logits(params: Any, inputs: jax.Array, statistics: Any = None) -> jax.Array:
        return model.apply(params, statistics or {}, inputs, mode == "train")[0]

    def predict(params: Any, batch: Mapping[str, jax.Array], statistics: Any = None) -> jax.Array:
        return logits(params, batch["inputs"], statistics)

    def criterion(outputs: jax.Array, batch: Mapping[str, jax.Array], statistics: Any = None) -> jax.Array:
        return jnp.mean(LOSSES[loss].function(outputs, batch["targets"]))

    def mean_loss(params: Any, batch: Mapping[str, jax.Array], statistics: Any = None) -> jax.Array:
        return criterion(predict(params, batch, statistics), batch)

    return Functions(logits, predict, criterion, mean_loss)


def as_float64(tree: Any) -> Any:
    """Floating leaves in float64, within `jax.enable_x64(True)`."""
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def state_of(subject: Subject) -> Any:
    """The statistics of batch norm as the curvature library takes them: None for a model without it."""
    return subject.statistics if jax.tree.leaves(subject.statistics) else None


def modes_of(settings: Mapping[str, Any], statistics: Any) -> dict[str, str]:
    """The modes of batch norm to measure in, by what they add to the names of numbers."""
    suffixes = {"train": "", "eval": "_eval"}
    if not jax.tree.leaves(statistics):
        return {"": "eval"}
    return {suffixes[mode]: mode for mode in settings["modes"]}


def curvature_data(subject: Subject) -> dict[str, jax.Array]:
    """The clean training examples that curvature is measured on, with their smoothed targets."""
    count = subject.settings["examples"] or None
    available = len(subject.splits["train"]["labels"])
    if count is not None and count > available:
        raise InputError(f"config.measure.examples must be at most {available}, the training split, got {count}")
    targets = make_targets(subject.splits["train"]["labels"][:count], subject.num_classes, subject.label_smoothing)
    data = {"inputs": subject.splits["train"]["inputs"][:count], "targets": targets}
    return sharding.placed(data, sharding.make_mesh(subject.devices))


def batches_of(subject: Subject, mode: str) -> cv.Batches:
    """The measured examples as products take them; in train mode, cut where statistics are shared."""
    data, size = curvature_data(subject), chunk_size(subject)
    if mode == "eval" or state_of(subject) is None:
        return cv.Batches(data, size)
    number = len(data["targets"])
    shared = min(subject.settings["statistics_batch"] or number, number)
    return cv.Batches(data, None if size is None else max(shared, size - size % shared), shared)


def chunk_size(subject: Subject) -> int | None:
    """Examples that one product takes at once; None is all of them."""
    return subject.settings["batch_size"] or None
