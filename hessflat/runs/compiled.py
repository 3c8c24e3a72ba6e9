"""What runs share, made once: the trainer, the data set, and its splits on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessflat import data
from hessflat.runs.schema import DataConfig, RunConfig
from hessflat.training import sharding
from hessflat.training.losses import LOSSES, are_classes
from hessflat.training.trainer import Trainer, make_trainer, static_config
from hessflat.utils.errors import InputError

Splits = dict[str, dict[str, jax.Array]]


class Compiled(NamedTuple):
    """What the runs of a group share."""

    trainer: Trainer
    dataset: data.Dataset
    splits: Splits


def compiled(config: RunConfig) -> Compiled:
    """The trainer and the data of a configuration; the same objects for every run that shares them.

    Raises:
        InputError: settings that do not go with the kind of labels that the data set has.
    """
    shared = _compiled(static_config(config))
    if are_classes(shared.splits["train"]["labels"]):
        losses = tuple(name for name, loss in LOSSES.items() if loss.classes)
        _require(config, "whose labels are classes", {"train.loss": (config.train.loss, losses)})
    else:
        losses = tuple(name for name, loss in LOSSES.items() if loss.real_targets)
        allowed = {
            "train.loss": (config.train.loss, losses),
            "train.label_smoothing": (config.train.label_smoothing, (0.0,)),
            "stop.train_accuracy": (config.stop.train_accuracy, (0.0,)),
        }
        _require(config, "whose targets are numbers", allowed)
    return shared


@functools.lru_cache(maxsize=8)
def load_data(config: DataConfig) -> data.Dataset:
    """The data set of a configuration, on the host."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(data.DataOptions)}
    return data.load(config.name, dict(config.settings), **options)


@functools.lru_cache(maxsize=64)
def _compiled(config: RunConfig) -> Compiled:
    dataset, splits = load_data(config.data), _device_splits(config.data, config.devices)
    return Compiled(make_trainer(config, dataset.num_classes, splits["train"]), dataset, splits)


@functools.lru_cache(maxsize=8)
def _device_splits(config: DataConfig, devices: int) -> Splits:
    """The splits that hold examples, on every device."""
    dataset = load_data(config)
    splits = {
        name: {key: jnp.asarray(array) for key, array in split.items()}
        for name, split in {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}.items()
        if len(split["labels"])
    }
    return sharding.replicate(splits, sharding.make_mesh(devices))


def _require(config: RunConfig, because: str, settings: Mapping[str, tuple[Any, tuple]]) -> None:
    """Refuse a value, the first of each pair, that is not among those allowed, the second."""
    for name, (value, allowed) in settings.items():
        if value not in allowed:
            raise InputError(
                f"config.{name} must be {' or '.join(map(repr, allowed))} for data set {config.data.name!r}, "
                f"{because}, got {value!r}"
            )


def release_programs() -> None:
    """Let go of compiled programs where they have taken most of the memory mappings that Linux allows a process.

    XLA's CPU compiler makes hundreds for a convolutional network, and ends the process where there are no more; a
    sweep over many networks comes to that. What is needed again is read from the cache on disk.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        taken = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return  # not Linux, which alone has this limit
    if taken > allowed / 2:
        jax.clear_caches()
