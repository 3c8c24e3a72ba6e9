"""What runs share, made once: the training program, the data set, and its splits on the device."""

import functools
import json
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hessflat import data
from hessflat.config import canonical_json, chosen_settings, get
from hessflat.runs.schema import effective, from_plain
from hessflat.training import sharding
from hessflat.training.losses import LOSSES_OF_CLASSES, LOSSES_OF_REAL_TARGETS, are_classes
from hessflat.training.program import Program, make_program, shared_by
from hessflat.utils.errors import InputError

Splits = dict[str, dict[str, jax.Array]]


class Prepared(NamedTuple):
    """What the runs of a group share."""

    program: Program
    dataset: data.Dataset
    splits: Splits


def prepared(config: ConfigDict) -> Prepared:
    """The program and the data of a configuration; the same objects for every run that shares them."""
    shared = _prepared(canonical_json(effective(shared_by(config))))
    if are_classes(shared.splits["train"]["labels"]):
        _require(config, "whose labels are classes", {"train.loss": LOSSES_OF_CLASSES})
    else:
        wanted = {"train.loss": LOSSES_OF_REAL_TARGETS, "train.label_smoothing": (0.0,), "stop.train_accuracy": (0.0,)}
        _require(config, "whose targets are numbers", wanted)
    return shared


def dataset_of(config: ConfigDict) -> data.Dataset:
    """The data of a configuration, where no program is needed."""
    return _loaded(canonical_json(effective(config)["data"]), config.devices)[0]


def _require(config: ConfigDict, because: str, wanted: Mapping[str, tuple]) -> None:
    """Refuse settings that do not go with the kind of labels that the data set has."""
    for name, values in wanted.items():
        if get(config, name) not in values:
            raise InputError(
                f"config.{name} must be {' or '.join(map(repr, values))} for data set {config.data.name!r}, {because}, "
                f"got {get(config, name)!r}"
            )


@functools.lru_cache(maxsize=64)
def _prepared(shared: str) -> Prepared:
    config = from_plain(json.loads(shared))
    dataset, splits = _loaded(canonical_json(effective(config)["data"]), config.devices)
    return Prepared(make_program(config, dataset.num_classes, splits["train"]), dataset, splits)


@functools.lru_cache(maxsize=8)
def _loaded(block: str, devices: int) -> tuple[data.Dataset, Splits]:
    """The data of a `data` block on the host and on the device, once for all programs that read it."""
    dataset = load_data(from_plain({"data": json.loads(block)}))
    return dataset, sharding.everywhere(device_splits(dataset), sharding.mesh_of(devices))


def load_data(config: ConfigDict) -> data.Dataset:
    """The data set of a configuration's `data` block."""
    common = {name: value for name, value in config.data.items() if not isinstance(value, ConfigDict)}
    return data.load(common.pop("name"), chosen_settings(config.data), **common)


def device_splits(dataset: data.Dataset) -> Splits:
    """The splits that hold examples, on the device."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        name: {key: jnp.asarray(array) for key, array in split.items()}
        for name, split in splits.items()
        if len(split["labels"])
    }
