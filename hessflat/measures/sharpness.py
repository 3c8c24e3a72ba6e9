"""λ_max of curvature matrices by itself, to a given accuracy."""

from typing import Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.measures.eval_state import EvalState, Protocol, curvature_operator, operators_by_key
from hessflat.measures.measurement import Measure, Measurement, Scalars


def sharpness(state: EvalState) -> Measurement:
    """λ_max of each operator to `measure.rtol`, searched from the eigenvector of the measurement before."""
    scalars: Scalars = {}
    starts = {}
    operators = operators_by_key(state.protocol.operators, state.protocol, state.batch_stats)
    for key, (name, mode) in operators.items():
        before = state.starts[key]
        pairs = cv.eigenpairs(
            curvature_operator(state, name, mode),
            jax.random.key(state.protocol.seed),
            rtol=state.protocol.rtol,
            start=before if bool(jnp.any(before != 0)) else None,
            show_progress=False,
            trust_start=True,
        )
        scalars[f"{key}.lambda_max"] = float(pairs.values[0])
        scalars[f"{key}.lambda_max_bound"] = float(pairs.residuals[0])
        starts[key] = _flat(pairs.vectors)
    return Measurement(scalars, {}, starts)


def no_starts(protocol: Protocol, params: Any, batch_stats: Any) -> dict[str, jax.Array]:
    """What `EvalState.starts` is before the first measurement: zeros, [P] for each operator."""
    return {key: jnp.zeros_like(_flat(params)) for key in operators_by_key(protocol.operators, protocol, batch_stats)}


def _flat(tree: Any) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


MEASURE = Measure(
    sharpness,
    cost=lambda settings, num_params: 10 * len(settings.operators),
    doc="λ_max is computed to measure.rtol, from its last eigenvector",
    names={"<operator>.lambda_max": ("λ_max(<operator>)", r"$\lambda_{\max}(<operator>)$")},
)
