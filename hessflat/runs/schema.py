"""Every setting of a run: its default, its range and what it means. `python -m hessflat settings` prints them."""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hessflat import config as configuration
from hessflat.config import SCALES, Schema, choice
from hessflat.config.timetable import timetable
from hessflat.config.validators import (
    Rule,
    Setting,
    anything,
    at_least,
    below,
    between,
    each,
    one_of,
    positive,
    settings_of,
    single,
    whole,
)
from hessflat.data import SOURCES, load
from hessflat.models import MODELS
from hessflat.training.gradients import PRECISIONS
from hessflat.training.losses import LOSSES
from hessflat.training.optimisers import DECAYED, OPTIMISERS
from hessflat.training.schedules import SCHEDULES
from hessflat.utils.errors import require_known

OPERATORS = ("hessian", "gauss_newton")
EXACT_OPERATORS = (*OPERATORS, "residual")
BATCH_NORM_MODES = ("train", "eval")

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
        "decayed": Setting("all", one_of(DECAYED), "what l2 is for; kernels: not biases, not normalisation"),
        "sam_radius": Setting(0.0, single(at_least(0)), "ρ of sharpness-aware minimisation; 0 is without it"),
    },
    "schedule": choice(SCHEDULES, "linear_decay", "how the learning rate changes"),
    "train": {
        "epochs": Setting(50, at_least(1), "passes over the training split"),
        "steps": Setting(0, at_least(0), "optimiser steps in place of train.epochs; 0 is all of its steps"),
        "batch_size": Setting(128, at_least(0), "examples a step; an epoch's last batch may be smaller; 0 is all"),
        "ghost_batch_size": Setting(0, at_least(0), "examples a forward pass, gradients averaged over them; 0 is all"),
        "loss": Setting("cross_entropy", one_of(LOSSES), "of an example; exponential: real targets alone"),
        "label_smoothing": Setting(0.0, below(0, 1), "α: targets (1 - α) one-hot + α / C; measured with it"),
        "mixup": Setting(0.0, single(at_least(0)), "β: pairs of examples mixed by Beta(β, β); 0 is without it"),
        "augment": Setting(0.0, between(0, 1), "probability that an image is shifted by up to 4 pixels and flipped"),
        "average_from": Setting(0, at_least(0), "epoch from which iterates are averaged and measured so; 0: never"),
        "precision": Setting("default", one_of(PRECISIONS), "of products in training; default is the backend's"),
        "from_run": Setting("", anything, "RUN or RUN@STEP: start from the weights of another run, its folder or the "
                            "settings that it has in place of this run's, such as train.batch_size=1000"),
    },
    "stop": {
        "train_accuracy": Setting(0.0, between(0, 1), "end once this share of the training split is right; 0: never"),
        "train_loss": Setting(0.0, at_least(0), "end once the mean of the last stop.losses looks is below; 0: never"),
        "losses": Setting(10, at_least(1), "how many looks stop.train_loss is a mean over"),
        "every": Setting(100, at_least(1), "steps between two looks at the whole training split"),
        "with_run": Setting("", anything, "take as many steps as another run: its folder, or the settings that it has "
                            "in place of this run's, such as train.label_smoothing=0"),
    },
    "measure": {
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
    },
    "checkpoint": {
        "keep": Setting("measured", one_of(("measured", "end")), "whose checkpoints stay, for `make measure`"),
        "minutes": Setting(5.0, positive, "between checkpoints to resume from"),
        "last": Setting(2, at_least(1), "checkpoints to resume from that are there at a time"),
    },
    "devices": Setting(0, at_least(0), "devices that a batch is spread over; 0 is all accelerators, or one CPU"),
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
