"""The curvature matrices that can be measured, and the functions of a model that they are made of.

To add a matrix: an entry in `OPERATORS`.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.models import Model
from hessflat.training.losses import LOSSES


class Functions(NamedTuple):
    """Pure functions of one model, made once, so that what is compiled for a checkpoint serves the next one.

    A batch is `{"inputs": [n, ...], "targets": [n, C]}`; targets are real, or smoothed one-hot labels, for label
    smoothing is part of the measured loss. Weight decay, mixup and augmentation are not. `batch_stats` are the running
    averages of batch norm, which eval mode uses; train mode takes the statistics of the batch.
    """

    logits: Callable[..., jax.Array]  # (params, inputs, batch_stats)
    predict: Callable[..., jax.Array]  # (params, batch, batch_stats)
    criterion: Callable[..., jax.Array]  # (logits, batch, batch_stats)
    loss: Callable[..., jax.Array]  # (params, batch, batch_stats)


@cache
def model_functions(model: Model, loss: str, mode: str = "eval") -> Functions:
    """The functions of a model with batch norm in `mode` and a loss by name, the same objects each time."""
    train, of_example = mode == "train", LOSSES[loss].function

    def logits(params: Any, inputs: jax.Array, batch_stats: Any = None) -> jax.Array:
        return model.apply(params, batch_stats or {}, inputs, train)[0]

    def predict(params: Any, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        return model.apply(params, batch_stats or {}, batch["inputs"], train)[0]

    def criterion(outputs: jax.Array, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        return jnp.mean(of_example(outputs, batch["targets"]))

    def mean_loss(params: Any, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        outputs, _ = model.apply(params, batch_stats or {}, batch["inputs"], train)
        return jnp.mean(of_example(outputs, batch["targets"]))

    return Functions(logits, predict, criterion, mean_loss)


class MeasuredOperator(NamedTuple):
    """A curvature matrix that can be measured.

    `build(functions, params, batches, batch_stats)` makes it. `symbol` stands in formulas, `title` in captions.
    `zero_mass` is the rule by which `Spectrum.zero_mass` counts. With `in_spectra` false every eigenvalue of it can be
    computed, but no spectrum is estimated by Lanczos quadrature.
    """

    build: Callable[[Functions, Any, cv.Batches, Any], cv.Operator]
    symbol: str
    title: str
    zero_mass: Literal["hessian", "gauss_newton"] = "hessian"
    in_spectra: bool = True


def _hessian(functions: Functions, params: Any, batches: cv.Batches, batch_stats: Any) -> cv.Operator:
    return cv.hessian(functions.loss, params, batches, batch_stats)


def _gauss_newton(functions: Functions, params: Any, batches: cv.Batches, batch_stats: Any) -> cv.Operator:
    return cv.gauss_newton(functions.predict, functions.criterion, params, batches, batch_stats)


def _residual(functions: Functions, params: Any, batches: cv.Batches, batch_stats: Any) -> cv.Operator:
    return cv.residual(functions.predict, functions.criterion, params, batches, batch_stats)


OPERATORS: Mapping[str, MeasuredOperator] = {
    "hessian": MeasuredOperator(_hessian, "H", "Hessian"),
    "gauss_newton": MeasuredOperator(_gauss_newton, "G", "Gauss-Newton matrix", "gauss_newton"),
    "residual": MeasuredOperator(_residual, "R", "residual H − G", in_spectra=False),
}
