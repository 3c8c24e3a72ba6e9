"""Every setting of a run, in one frozen dataclass. `python -m hessflat settings` prints them."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ml_collections import ConfigDict

from hessflat import config as configuration
from hessflat import measures
from hessflat.config import SCALES, Overrides, Rule, Settings, anything, at_least, builders, one_of, positive, some_of
from hessflat.data import SOURCES, DataOptions
from hessflat.runs.writers import WRITERS
from hessflat.training.config import TrainingConfig

_folder_name = Rule(
    lambda name: re.fullmatch(r"\w[\w.-]*", name) is not None and len(name.encode()) <= 200,
    "letters, digits, _ . and - alone, 200 bytes at most",
)


@dataclass(frozen=True)
class DataConfig(DataOptions):
    """The data set, and how its examples become inputs and splits."""

    name: Annotated[str, builders(SOURCES, anything), "a built-in source, or a data set prepared by `data prepare`"] = (
        "digits"
    )
    settings: Settings = ()


# Each measure registers its settings; the protocol that all of them share is typed.
MeasureConfig = configuration.make_block("MeasureConfig", measures.measure_settings(), __name__, measures.Protocol)


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run besides its measurements."""

    keep: Annotated[str, one_of(("measured", "end")), "states whose checkpoints are kept, for `measure`"] = "measured"
    minutes: Annotated[float, positive, "minutes between checkpoints to resume from"] = 5.0
    last: Annotated[int, at_least(1), "number of checkpoints to resume from that are kept at a time"] = 2


@dataclass(frozen=True)
class RunConfig(TrainingConfig):
    """One run: what it trains on what data, and what is measured when. It is hashable, and a key by itself."""

    experiment: Annotated[str, _folder_name, "folder under runs/ that the run belongs to"] = "unnamed"
    scale: Annotated[
        str,
        one_of(SCALES),
        "smoke: seconds; small: minutes on two cores; medium: real images, hours on two cores; paper: as published",
    ] = "small"
    data: DataConfig = field(default_factory=DataConfig)
    measure: measures.Protocol = field(default_factory=MeasureConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    execution: Annotated[
        str,
        one_of(("auto", "turn", "vectorised")),
        "how runs that share shapes train: in turn, or together by vmap",
    ] = "auto"
    writers: Annotated[
        str, some_of(WRITERS), "where numbers go besides metrics.jsonl; not part of the run's name or of config.json"
    ] = ""


# Settings that are no part of what a run is: where its numbers go and where it is placed may be others each time that
# it is started.
UNNAMED = ("writers", "devices", "fsdp")


def base_config(scale: str) -> ConfigDict:
    """The locked ConfigDict with every default, for one of `SCALES`. What a configuration file changes."""
    configuration.require("scale", scale, one_of(SCALES))
    return configuration.override(configuration.config_dict(RunConfig), {"scale": scale})


def freeze(config: ConfigDict) -> RunConfig:
    """The run that a ConfigDict describes, every value checked."""
    return configuration.freeze(config, RunConfig)


def from_plain(nested: Mapping[str, Any]) -> RunConfig:
    """The run that `config.plain` wrote, read back from JSON."""
    return configuration.from_plain(nested, RunConfig)


def replace(config: RunConfig, overrides: Overrides) -> RunConfig:
    """The run with other values by dotted name."""
    return freeze(configuration.override(configuration.thaw(config), overrides))


@functools.cache
def defaults() -> Mapping[str, Any]:
    """Every setting there is, those of all builders, with its default, by dotted name."""
    return configuration.flatten(configuration.config_dict(RunConfig))


def plain(config: RunConfig) -> dict[str, Any]:
    """What a run is, as nested plain data: every setting but those of `UNNAMED`."""
    return {name: value for name, value in configuration.plain(config).items() if name not in UNNAMED}


def identity(config: RunConfig) -> str:
    """Eight hexadecimal digits from what differs from the defaults, and from the builders chosen.

    So a setting that the schema gains later, left at its default, does not make strangers of the runs there are.
    """
    values = configuration.flatten(plain(config))
    return configuration.fingerprint(
        {name: value for name, value in values.items() if value != defaults()[name] or name.endswith(".name")}
    )
