"""The Hessian in every way that a paper may measure it: mode and statistics of batch norm, probes, precision."""

import contextlib
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.curvature.stochtrace.hutchinson import quadratic_samples
from hessflat.measures.subject import Measured, Subject, as_float64, batches_of, functions_of, modes_of, state_of


class Way(NamedTuple):
    """A way of measuring; 0 examples that share statistics are all."""

    mode: str
    statistics_batch: int
    float64: bool


def ways(subject: Subject) -> list[Way]:
    """Each mode of batch norm in both precisions, and train mode with each of `measure.statistics_batches`."""
    modes = modes_of(subject.settings, subject.statistics).values()
    shared = subject.settings["statistics_batches"] if "train" in modes else ()
    cut = [Way("train", size, False) for size in shared]
    return [*(Way(mode, 0, False) for mode in modes), *cut, *(Way(mode, 0, True) for mode in modes)]


def sensitivity(subject: Subject) -> Measured:
    """Array `sensitivity`, a row for every way: both ends of the spectrum of H, and what each single probe says.

    `lambda_max` and `lambda_min` `[ways]` with their bounds, found to `measure.rtol`; `trace` and `second_moment`
    (Σ λ² / P) `[ways, probes]`, the estimate of every one of `measure.trace_probes`, which are the same in all ways and
    all runs.
    """
    rows = [_measured(subject, way) for way in ways(subject)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    named = {name: np.array([getattr(way, name) for way in ways(subject)]) for name in Way._fields}
    return Measured({}, {"sensitivity": named | columns})


def _measured(subject: Subject, way: Way) -> dict[str, np.ndarray | float]:
    settings = {**subject.settings, "statistics_batch": way.statistics_batch}
    keys = jax.random.split(jax.random.key(settings["seed"]))
    with jax.enable_x64(True) if way.float64 else contextlib.nullcontext():
        batches = batches_of(subject._replace(settings=settings), way.mode)
        params, state, data = subject.params, state_of(subject), batches.arrays
        if way.float64:
            params, state, data = (as_float64(tree) for tree in (params, state, data))
        loss = functions_of(subject.model, subject.loss, way.mode).loss
        op = cv.hessian(loss, params, dataclasses.replace(batches, arrays=data), state)
        ends = cv.eigenpairs(op, keys[0], 1, "both", settings["rtol"], show_progress=False)
        quadratic, squared, scale = quadratic_samples(op, keys[1], settings["trace_probes"], "rademacher", None).T
    (largest, smallest), bounds = ends.values, ends.residuals
    return {
        "lambda_max": float(largest),
        "lambda_max_bound": float(bounds[0]),
        "lambda_min": float(smallest),
        "lambda_min_bound": float(bounds[1]),
        "trace": op.size * scale * quadratic,
        "second_moment": scale**2 * squared,
    }
