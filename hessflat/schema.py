"""Every setting of a run: its default, its range and what it means. `python -m hessflat.schema` prints them."""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hessflat import config as configuration
from hessflat.config import SCALES, Schema, choice
from hessflat.data import SOURCES, load
from hessflat.errors import require_known
from hessflat.models import MODELS
from hessflat.rules import Rule, Setting, anything, at_least, below, each, one_of, positive, settings_of, single, whole
from hessflat.training.optimisers import OPTIMISERS
from hessflat.training.schedules import SCHEDULES

OPERATORS = ("hessian", "gauss_newton")
SCHEDULE_OF_MEASUREMENTS = ("growth", "every", "end")

_folder_name = Rule(lambda name: re.fullmatch(r"\w[\w.-]*", name) is not None, "letters, digits, _ . and - alone")

SCHEMA: Schema = {
    "experiment": Setting("unnamed", _folder_name, "folder under runs/ that the run belongs to"),
    "scale": Setting("small", one_of(SCALES), "smoke: seconds; small: minutes on two cores; paper: as published"),
    "seed": Setting(0, whole(0, 2**32 - 1), "of the initial weights and of the order of examples"),
    "model": choice(MODELS, "softmax_regression", "the network"),
    "data": {
        **choice(SOURCES, "digits", ""),
        "name": Setting("digits", anything, "a built-in source, or a data set prepared by `make data`"),
        **settings_of(load),
    },
    "optim": {
        **choice(OPTIMISERS, "sgd", "the optimiser"),
        "lr": Setting(0.03, single(positive), "initial learning rate"),
        "l2": Setting(0.0, single(at_least(0)), "weight decay: in the gradient of sgd and adam, decoupled in adamw"),
    },
    "schedule": choice(SCHEDULES, "linear_decay", "how the learning rate changes"),
    "train": {
        "epochs": Setting(50, at_least(1), "passes over the training split"),
        "batch_size": Setting(128, at_least(1), "examples a step; the last batch of an epoch may be smaller"),
        "label_smoothing": Setting(0.0, below(0, 1), "α: targets (1 - α) one-hot + α / C; measured with it"),
    },
    "measure": {
        "at": Setting("growth", one_of(SCHEDULE_OF_MEASUREMENTS), "when to measure; the last epoch is always measured"),
        "every": Setting(10, at_least(1), "epochs between measurements where measure.at is every"),
        "operators": Setting(OPERATORS, each(one_of(OPERATORS)), "whose spectra are estimated by Lanczos quadrature"),
        "curvature": Setting("always", one_of(("always", "end")), "when to measure spectra and Jacobians"),
        "exact": Setting("never", one_of(("never", "end", "always")), "when to compute every eigenvalue of H"),
        "lanczos_steps": Setting(100, at_least(1), "steps of each Lanczos run"),
        "probes": Setting(2, at_least(1), "Lanczos runs a spectrum; a standard error needs two"),
        "trace_probes": Setting(20, at_least(1), "single products for trace and Frobenius norm"),
        "examples": Setting(0, at_least(0), "first training examples, that curvature is measured on; 0 is all"),
        "batch_size": Setting(0, at_least(0), "examples a product takes at once, to bound memory; 0 is all"),
        "seed": Setting(0, whole(0, 2**32 - 1), "of the probes"),
    },
    "checkpoint": {
        "keep": Setting("measured", one_of(("measured", "end")), "whose checkpoints stay, for `make measure`"),
        "minutes": Setting(5.0, positive, "between checkpoints to resume from; each replaces the one before"),
    },
    "execution": Setting(
        "auto", one_of(("auto", "turn", "vectorised")), "how runs that share shapes train: in turn, or together by vmap"
    ),
}  # fmt: skip


def base_config(scale: str) -> ConfigDict:
    """A locked configuration with every default, for one of `SCALES`."""
    require_known("scale", [scale], SCALES)
    return configuration.override(configuration.from_schema(SCHEMA), {"scale": scale})


def validate(config: ConfigDict) -> ConfigDict:
    """The configuration itself, once every value has been checked."""
    configuration.validate(config, SCHEMA)
    return config


def effective(config: ConfigDict) -> dict:
    """The configuration as nested plain data, without settings of builders that were not chosen."""
    return configuration.effective(config, SCHEMA)


def identity(config: ConfigDict) -> str:
    """Eight hexadecimal digits from what differs from the defaults, and from the builders chosen.

    So a setting that the schema gains later, left at its default, does not make strangers of the runs there are.
    """
    defaults = {name: setting.default for name, setting in configuration.flatten(SCHEMA).items()}
    values = configuration.flatten_plain(effective(config))
    return configuration.fingerprint(
        {name: value for name, value in values.items() if value != defaults[name] or name.endswith(".name")}
    )


def from_plain(plain: Mapping[str, Any]) -> ConfigDict:
    """The configuration that `effective` wrote; settings of builders that were not chosen are at their defaults."""
    return configuration.override(configuration.from_schema(SCHEMA), configuration.flatten_plain(plain))


def main() -> None:
    """Print every setting in a line: name, default, range, meaning."""
    for name, setting in configuration.flatten(SCHEMA).items():
        print(f"{'--config.' + name:44} {setting.default!r:32} {setting.doc}; {setting.rule.says}")


if __name__ == "__main__":
    main()
