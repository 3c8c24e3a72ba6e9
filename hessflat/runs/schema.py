"""Every setting of a run, in one frozen dataclass. `python -m hessflat settings` prints them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ml_collections import ConfigDict

from hessflat import config as configuration
from hessflat.config import SCALES, Overrides, Settings, builders
from hessflat.config.timetable import timetable
from hessflat.config.validators import (
    Rule,
    Setting,
    anything,
    at_least,
    between,
    each,
    one_of,
    positive,
    settings_of,
    whole,
)
from hessflat.data import SOURCES, load
from hessflat.training.config import TrainingConfig
from hessflat.utils.errors import require_known

OPERATORS = ("hessian", "gauss_newton")
EXACT_OPERATORS = (*OPERATORS, "residual")
BATCH_NORM_MODES = ("train", "eval")

_folder_name = Rule(lambda name: re.fullmatch(r"\w[\w.-]*", name) is not None, "letters, digits, _ . and - alone")

MEASURE: Mapping[str, Setting] = {
    "performance": Setting("growth", timetable, "when losses, accuracies and norms are measured"),
    "outputs": Setting("never", timetable, "when ‖F(X)‖_F and the loss less the targets' entropy are measured"),
    "spectra": Setting("growth", timetable, "when spectra are estimated by Lanczos quadrature"),
    "sharpness": Setting("never", timetable, "when λ_max is found to measure.rtol, from where it was last"),
    "scaled_sharpness": Setting("never", timetable, "when λ_max of T H T is found, T = |w| and norms of filters"),
    "exact": Setting("never", timetable, "when every eigenvalue is computed"),
    "extremes": Setting("never", timetable, "when the largest and the smallest eigenvalues are found by Lanczos"),
    "jacobian": Setting("growth", timetable, "when input-output Jacobian norms are measured, in eval mode"),
    "features": Setting("never", timetable, "when norms of what goes into dense layers, and of kernels, are taken"),
    "fit": Setting("never", timetable, "when the outputs of every example are stored"),
    "layers": Setting("never", timetable, "when the summands of G by layer and norms between layers are computed"),
    "loss_limit": Setting("never", timetable, "when H is measured at weights multiplied by measure.scales"),
    "reparameterised": Setting("never", timetable, "when H is measured with one layer times α, another over α"),
    "sensitivity": Setting("never", timetable, "when H is measured in every way: modes, statistics, precision"),
    "batch_norm": Setting("never", timetable, "when Jacobians with batch norm in train and eval mode are compared"),
    "lipschitz": Setting("never", timetable, "when Jacobian norms of samples are held against their supremum"),
    "line": Setting("never", timetable, "when losses on the line from the run's first weights are measured"),
    "operators": Setting(OPERATORS, each(one_of(OPERATORS)), "whose spectra and λ_max are measured"),
    "exact_operators": Setting(("hessian",), each(one_of(EXACT_OPERATORS)), "whose; residual is R = H - G"),
    "exact_float64": Setting(False, anything, "whether products of exact spectra are taken in float64"),
    "modes": Setting(BATCH_NORM_MODES, each(one_of(BATCH_NORM_MODES)), "of batch norm, in models that have it"),
    "statistics_batch": Setting(0, at_least(0), "examples that share statistics in train mode; 0 is all measured"),
    "statistics_batches": Setting((16, 64), each(at_least(1)), "further ones, of measure.sensitivity"),
    "lanczos_steps": Setting(100, at_least(1), "steps of each Lanczos run"),
    "probes": Setting(2, at_least(1), "Lanczos runs a spectrum; a standard error needs two"),
    "rtol": Setting(1e-3, positive, "relative accuracy of λ_max found by itself"),
    "trace_probes": Setting(20, at_least(1), "single products for trace and Frobenius norm"),
    "largest": Setting(120, at_least(1), "largest eigenvalues that extremes are"),
    "smallest_share": Setting(0.0025, between(0, 1), "of P: smallest eigenvalues that extremes are, one at least"),
    "extremes_products": Setting(1000, at_least(1), "products for extremes, at most; as many vectors are kept"),
    "scales": Setting((1.0, 2.0, 4.0, 8.0), each(positive), "factors of loss_limit, and α of reparameterised"),
    "sample_sizes": Setting((10, 100), each(at_least(2)), "numbers of examples N of batch_norm and of lipschitz"),
    "blocks": Setting(4, at_least(2), "first examples of which measure.batch_norm takes Jacobians in train mode"),
    "draws": Setting(100_000, at_least(1), "fresh examples that measure.lipschitz cuts samples from"),
    "grid": Setting(100, at_least(2), "points along a side of the cube on which measure.lipschitz takes suprema"),
    "line_from": Setting(-1.0, between(-100, 0), "first point of measure.line: 0 is the first weights"),
    "line_to": Setting(2.0, between(1, 100), "last point of measure.line: 1 is the present weights"),
    "line_points": Setting(31, at_least(2), "evenly spaced points of measure.line, beside 0 and 1"),
    "examples": Setting(0, at_least(0), "first training examples, that curvature is measured on; 0 is all"),
    "layer_examples": Setting(100, at_least(1), "first measured examples, that measure.layers is computed on"),
    "batch_size": Setting(0, at_least(0), "examples a product takes at once, to bound memory; 0 is all"),
    "seed": Setting(0, whole(0, 2**32 - 1), "of the probes"),
}  # fmt: skip


@dataclass(frozen=True)
class _Source:
    name: Annotated[str, builders(SOURCES, anything), "a built-in source, or a data set prepared by `make data`"] = (
        "digits"
    )
    settings: Settings = ()


DataConfig = configuration.make_block("DataConfig", settings_of(load), __name__, _Source)
MeasureConfig = configuration.make_block("MeasureConfig", MEASURE, __name__)


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run besides its measurements."""

    keep: Annotated[str, one_of(("measured", "end")), "whose checkpoints stay, for `make measure`"] = "measured"
    minutes: Annotated[float, positive, "between checkpoints to resume from"] = 5.0
    last: Annotated[int, at_least(1), "checkpoints to resume from that are there at a time"] = 2


@dataclass(frozen=True)
class RunConfig(TrainingConfig):
    """One run: what it trains on what data, and what is measured when. It is hashable, and a key by itself."""

    experiment: Annotated[str, _folder_name, "folder under runs/ that the run belongs to"] = "unnamed"
    scale: Annotated[str, one_of(SCALES), "smoke: seconds; small: minutes on two cores; paper: as published"] = "small"
    data: Any = field(default_factory=DataConfig)
    measure: Any = field(default_factory=MeasureConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    execution: Annotated[
        str,
        one_of(("auto", "turn", "vectorised")),
        "how runs that share shapes train: in turn, or together by vmap",
    ] = "auto"


def base_config(scale: str) -> ConfigDict:
    """The locked ConfigDict with every default, for one of `SCALES`. What a configuration file changes."""
    require_known("scale", [scale], SCALES)
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


def identity(config: RunConfig) -> str:
    """Eight hexadecimal digits from what differs from the defaults, and from the builders chosen.

    So a setting that the schema gains later, left at its default, does not make strangers of the runs there are.
    """
    defaults = configuration.flatten(configuration.config_dict(RunConfig))
    values = configuration.flatten(configuration.plain(config))
    return configuration.fingerprint(
        {name: value for name, value in values.items() if value != defaults[name] or name.endswith(".name")}
    )
