"""The Hessian under every protocol that a paper may use: mode and statistics of batch norm, probes, precision."""

import contextlib
import dataclasses
from typing import Annotated, NamedTuple

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.config import at_least, each
from hessflat.curvature.stochtrace.estimates import quadratic_samples
from hessflat.measures.eval_state import EvalState, as_float64, curvature_batches, modes_by_suffix
from hessflat.measures.measurement import Measure, Measurement, TraceProbes


class Variant(NamedTuple):
    """In what a protocol differs from the others; 0 examples that share batch statistics are all."""

    mode: str
    batch_stats_size: int
    float64: bool


def variants(state: EvalState, batch_stats_sizes: tuple[int, ...]) -> list[Variant]:
    """Each mode of batch norm in both precisions, and train mode with each of `batch_stats_sizes`."""
    modes = modes_by_suffix(state.protocol, state.batch_stats).values()
    cut = [Variant("train", size, False) for size in batch_stats_sizes if "train" in modes]
    return [*(Variant(mode, 0, False) for mode in modes), *cut, *(Variant(mode, 0, True) for mode in modes)]


def sensitivity(
    state: EvalState,
    *,
    batch_stats_sizes: Annotated[
        tuple[int, ...], each(at_least(1)), "further values of measure.batch_stats_size in measure.sensitivity"
    ] = (16, 64),
    trace_probes: TraceProbes = 20,
) -> Measurement:
    """Array `sensitivity`, a row for each of V protocols: both ends of the spectrum of H, and what each probe says.

    `mode`, `batch_stats_size` and `float64` [V] name the protocol. `lambda_max` and `lambda_min` [V] are accurate to
    `measure.rtol`, with their bounds. `trace` and `second_moment` (Σ λ² / P) [V, probes] are the estimates of every
    single one of `measure.trace_probes`, which are the same in all protocols and all runs.
    """
    rows = [_measure_variant(state, variant, trace_probes) for variant in variants(state, batch_stats_sizes)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Measurement({}, {"sensitivity": columns})


def _measure_variant(state: EvalState, variant: Variant, trace_probes: int) -> dict[str, np.ndarray | float | str]:
    protocol = dataclasses.replace(state.protocol, batch_stats_size=variant.batch_stats_size)
    keys = jax.random.split(jax.random.key(protocol.seed))
    with jax.enable_x64(True) if variant.float64 else contextlib.nullcontext():
        batches = curvature_batches(state._replace(protocol=protocol), variant.mode)
        params, batch_stats, data = state.params, state.curvature_state, batches.arrays
        if variant.float64:
            params, batch_stats, data = (as_float64(tree) for tree in (params, batch_stats, data))
        loss = state.functions(variant.mode).loss
        op = cv.hessian(loss, params, dataclasses.replace(batches, arrays=data), batch_stats)
        ends = cv.eigenpairs(op, keys[0], 1, "both", protocol.rtol, show_progress=False)
        quadratic, squared, scale = quadratic_samples(op, keys[1], trace_probes, "rademacher", None).T
    (largest, smallest), bounds = ends.values, ends.residuals
    return variant._asdict() | {
        "lambda_max": float(largest),
        "lambda_max_bound": float(bounds[0]),
        "lambda_min": float(smallest),
        "lambda_min_bound": float(bounds[1]),
        "trace": op.size * scale * quadratic,
        "second_moment": scale**2 * squared,
    }


MEASURE = Measure(
    sensitivity,
    # Several protocols, of which those in float64 take twice as long.
    cost=lambda settings, num_params: (6 + len(settings.batch_stats_sizes)) * (settings.trace_probes + 40),
    doc="H is measured under every protocol: modes, batch statistics, precision",
)
