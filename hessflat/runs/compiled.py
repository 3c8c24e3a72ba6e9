"""What runs share, made once: the trainer, the data set, and its splits on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessflat import data
from hessflat.runs.schema import RunConfig
from hessflat.training import sharding
from hessflat.training.losses import LOSSES, are_classes
from hessflat.training.trainer import Trainer, make_trainer, static_config
from hessflat.utils.errors import InputError

Splits = dict[str, dict[str, jax.Array]]


class Prepared(NamedTuple):
    """What the runs of a group share."""

    trainer: Trainer
    dataset: data.Dataset
    splits: Splits


def prepared(config: RunConfig) -> Prepared:
    """The trainer and the data of a configuration; the same objects for every run that shares them."""
    shared = _prepared(static_config(config))
    classes = tuple(name for name, loss in LOSSES.items() if loss.classes)
    real_targets = tuple(name for name, loss in LOSSES.items() if loss.real_targets)
    if are_classes(shared.splits["train"]["labels"]):
        _require(config, "whose labels are classes", {"train.loss": (config.train.loss, classes)})
        return shared
    wanted = {
        "train.loss": (config.train.loss, real_targets),
        "train.label_smoothing": (config.train.label_smoothing, (0.0,)),
        "stop.train_accuracy": (config.stop.train_accuracy, (0.0,)),
    }
    _require(config, "whose targets are numbers", wanted)
    return shared


def dataset_of(config: RunConfig) -> data.Dataset:
    """The data of a configuration, where no trainer is needed."""
    return _loaded(config.data, config.devices)[0]


def _require(config: RunConfig, because: str, wanted: Mapping[str, tuple[Any, tuple]]) -> None:
    """Refuse settings that do not go with the kind of labels that the data set has."""
    for name, (value, allowed) in wanted.items():
        if value not in allowed:
            raise InputError(
                f"config.{name} must be {' or '.join(map(repr, allowed))} for data set {config.data.name!r}, "
                f"{because}, got {value!r}"
            )


@functools.lru_cache(maxsize=64)
def _prepared(config: RunConfig) -> Prepared:
    dataset, splits = _loaded(config.data, config.devices)
    return Prepared(make_trainer(config, dataset.num_classes, splits["train"]), dataset, splits)


@functools.lru_cache(maxsize=8)
def _loaded(config: Any, devices: int) -> tuple[data.Dataset, Splits]:
    """The data of a `DataConfig` on the host and on the device, once for all trainers that read it."""
    dataset = load_data(config)
    return dataset, sharding.everywhere(device_splits(dataset), sharding.make_mesh(devices))


def load_data(config: Any) -> data.Dataset:
    """The data set that a `DataConfig` describes."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return data.load(options.pop("name"), dict(options.pop("settings")), **options)


def device_splits(dataset: data.Dataset) -> Splits:
    """The splits that hold examples, on the device."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        name: {key: jnp.asarray(array) for key, array in split.items()}
        for name, split in splits.items()
        if len(split["labels"])
    }
