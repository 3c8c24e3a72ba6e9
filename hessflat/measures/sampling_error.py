"""λ_max of the measured examples as an estimate of that of the whole training split."""

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.config import whole
from hessflat.curvature.sampling import quadratic_forms, subset_sharpness
from hessflat.measures.eval_state import OPERATORS, EvalState, curvature_batches, operators_by_key
from hessflat.measures.measurement import Measure, Measurement, Scalars


def sampling_error(
    state: EvalState,
    *,
    sampling_folds: Annotated[int, whole(2, 1_000), "folds of the measured examples in measure.sampling_error"] = 4,
    sampling_steps: Annotated[
        int, whole(1, 10_000), "largest number of products in each search of measure.sampling_error"
    ] = 100,
) -> Measurement:
    """λ_max of the first `measure.examples` training examples, and by how much that of all may differ.

    `<operator>.lambda_max` is to `measure.rtol`, with its bound, in place of what other measures say of it.
    `<operator>.lambda_max_sampling_se` is the standard error that the draw of the examples makes, and
    `.lambda_max_sampling_bias` what λ_max of few examples is too large by on average, as
    `curvature.sampling.subset_sharpness` estimates them; where all are measured both are 0, and nothing is computed.
    Batch norm is in eval mode: in train mode examples are coupled, and the curvature of a subset is no sample of that
    of all.
    """
    functions, batches = state.functions(), curvature_batches(state, "eval")
    population = len(state.splits["train"]["labels"])
    protocol = dataclasses.replace(state.protocol, modes=("eval",))
    fixed = functions.predict, functions.losses, state.params

    def build(name: str, part: cv.Batches) -> cv.Operator:
        return OPERATORS[name].build(functions, state.params, part, state.curvature_state)

    def forms(name: str, vector: Any) -> np.ndarray:
        found: np.ndarray = getattr(quadratic_forms(*fixed, vector, batches, state.curvature_state), name)
        return found

    scalars: Scalars = {}
    for key, (name, _) in operators_by_key(protocol.operators, protocol, state.batch_stats).items():
        if batches.num_examples == population:
            scalars |= {f"{key}.lambda_max_sampling_se": 0.0, f"{key}.lambda_max_sampling_bias": 0.0}
            continue
        found = subset_sharpness(
            partial(build, name),
            batches,
            partial(forms, name),
            population,
            jax.random.key(protocol.seed),
            sampling_folds,
            protocol.rtol,
            sampling_steps,
        )
        scalars |= {
            f"{key}.lambda_max": found.value,
            f"{key}.lambda_max_bound": found.residual,
            f"{key}.lambda_max_sampling_se": found.standard_error,
            f"{key}.lambda_max_sampling_bias": found.bias,
        }
    return Measurement(scalars, {})


MEASURE = Measure(
    sampling_error,
    # One search over all measured examples, and as much again over its folds, each to its last step.
    cost=lambda settings, num_params: 2 * settings.sampling_steps * len(settings.operators),
    doc="the error of λ_max as an estimate for all training examples is measured",
    names={
        "<operator>.lambda_max_sampling_se": "standard error of λ_max(<operator>) by the draw of examples",
        "<operator>.lambda_max_sampling_bias": "bias of λ_max(<operator>) by the draw of examples",
    },
)
