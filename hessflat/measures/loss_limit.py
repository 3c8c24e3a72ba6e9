"""Curvature as the loss goes to zero because logits grow: *Flatness is a False Friend*, §3.1 and appendix A.

Weights are multiplied by growing factors and nothing is trained, so that the loss of a network that separates its
training data falls to zero along a known path.
"""

from typing import Any

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.measures.eval_state import EvalState, as_float64, chunk_size, curvature_data, evaluated
from hessflat.measures.measurement import Measure, Measurement, Scales, TraceProbes
from hessflat.utils.errors import SettingError

SMALLEST_LOSS = 1e-12


def loss_limit(
    state: EvalState, *, scales: Scales = (1.0, 2.0, 4.0, 8.0), trace_probes: TraceProbes = 20
) -> Measurement:
    """Loss, λ_max, trace and Frobenius norm of H at each of `measure.scales`, in float64 and eval mode.

    Arrays `loss_limit-last` and `loss_limit-all`: the last layer's weights times t, and all weights times t^(1/layers),
    under which the logits of a homogeneous network grow as t, too. Scales at which the loss is below 1e-12 are left
    out: softmax takes differences from 1, which end at 1e-16 in float64 and would at 1e-7 in float32. Probes are the
    same at every t.
    """
    data, functions = curvature_data(state), state.functions()
    keys = jax.random.split(jax.random.key(state.protocol.seed))
    arrays = {}
    with jax.enable_x64(True):
        params, data, batch_stats = (as_float64(tree) for tree in (state.params, data, state.curvature_state))
        batches = cv.Batches(data, chunk_size(state))
        for which in ("last", "all"):
            rows = []
            for scale in sorted(scales):
                scaled = scaled_params(params, scale, which)
                value = float(evaluated(functions.loss, scaled, data, batch_stats))
                if value < SMALLEST_LOSS:
                    break
                op = cv.hessian(functions.loss, scaled, batches, batch_stats)
                moments = cv.moments(op, keys[0], trace_probes)
                top = cv.sharpness(op, keys[1], rtol=state.protocol.rtol)
                trace, frobenius = moments.trace.value, moments.frobenius.value
                rows.append((scale, value, top.value, top.residual, trace, frobenius))
            names = ("scale", "loss", "lambda_max", "lambda_max_bound", "trace", "frobenius")
            table = np.array(rows, float).reshape(-1, len(names))
            arrays[f"loss_limit-{which}"] = dict(zip(names, table.T, strict=True))
    return Measurement({}, arrays)


def scaled_params(params: Any, scale: float, which: str) -> Any:
    """The parameters with those of the last dense layer, or all, multiplied; see `loss_limit`."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]
    if which == "all":
        return jax.tree.map(lambda leaf: leaf * scale ** (1 / len(paths)), params)
    dense = [path[0].key for path in paths if path[0].key.startswith("Dense_")]
    if not dense:
        raise SettingError("config.measure.loss_limit needs a model that ends in a dense layer; set it to 'never'")
    last = max(dense, key=lambda name: int(name.removeprefix("Dense_")))
    return {**params, last: jax.tree.map(lambda leaf: leaf * scale, params[last])}


MEASURE = Measure(
    loss_limit,
    # In float64, for two ways of scaling.
    cost=lambda settings, num_params: 4 * len(settings.scales) * (settings.trace_probes + 20),
    doc="H is measured at weights multiplied by measure.scales",
)
