"""The two ends of a spectrum too large to be known as a whole: *Empirical Analysis of the Hessian*, §3.2 to 3.4.

A network with one hidden layer of h ReLU units, softmax and C classes has at most (C − 1) h negative eigenvalues.
R = H − G is zero but for the blocks that couple the weights out of a hidden unit with those into it; the C rows of such
a block add up to zero, as the gradient of the loss by the logits does; so R has rank 2 (C − 1) h at most, half of its
eigenvalues are negative, and adding G, which has none, makes them no more. So the tail is short in per cent of P, and
can be had by Lanczos.
"""

import math
from typing import Annotated

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.config import at_least, between
from hessflat.measures.eval_state import EvalState, curvature_operator, operators_by_key
from hessflat.measures.measurement import Measure, Measurement
from hessflat.utils.errors import SettingError


def spectrum_edges(
    state: EvalState,
    *,
    largest: Annotated[int, at_least(1), "largest eigenvalues that measure.spectrum_edges computes"] = 120,
    smallest_share: Annotated[
        float, between(0, 1), "share of P: smallest eigenvalues that measure.spectrum_edges computes, at least one"
    ] = 0.0025,
    edge_products: Annotated[
        int, at_least(1), "largest number of products of measure.spectrum_edges; as many vectors are in memory"
    ] = 1000,
) -> Measurement:
    """The `measure.largest` largest eigenvalues of each operator, and the `measure.smallest_share` of P smallest.

    Each array `<operator>-extremes` holds `largest` [k] in decreasing and `smallest` [m] in increasing order, with
    `largest_residuals` and `smallest_residuals`, and `num_params`, P. An eigenvalue lies within its residual of each
    value. A value counts as converged when its residual is at most `measure.rtol` of it, or 50 roundings of the largest
    (6e-6 of it in float32); whatever has not after `measure.edge_products` products is there, too, and counted as
    `unconverged`. All Lanczos vectors stay in memory, so that no restart throws away what the tail has gained.
    """
    measurement = Measurement({}, {})
    operators = operators_by_key(state.protocol.operators, state.protocol, state.batch_stats)
    for key, (name, mode) in operators.items():
        op = curvature_operator(state, name, mode)
        smallest = max(1, math.ceil(smallest_share * op.size))
        number = largest + smallest
        if number > op.size:
            raise SettingError(
                f"config.measure.largest and smallest_share must be {op.size} eigenvalues at most, those there are, "
                f"got {largest} and {smallest}; measure all, by config.measure.full_spectrum"
            )
        if edge_products < min(number + 4, op.size):
            raise SettingError(
                f"config.measure.edge_products must be at least {number + 4}, for {number} eigenvalues, "
                f"got {edge_products}"
            )
        pairs = cv.eigenpairs(
            op,
            jax.random.key(state.protocol.seed),
            (largest, smallest),
            "both",
            rtol=state.protocol.rtol,
            max_steps=edge_products,
            num_vectors=edge_products,
            show_progress=False,
        )
        values = {"largest": pairs.values[:largest], "smallest": pairs.values[largest:]}
        residuals = {
            "largest_residuals": pairs.residuals[:largest],
            "smallest_residuals": pairs.residuals[largest:],
        }
        measurement.arrays[f"{key}-extremes"] = values | residuals | {"num_params": np.array(op.size)}
        prefix = f"{key}.extremes"
        measurement.scalars.update(
            {
                f"{prefix}.lambda_max": float(values["largest"][0]),
                f"{prefix}.lambda_max_bound": float(residuals["largest_residuals"][0]),
                f"{prefix}.lambda_min": float(values["smallest"][0]),
                f"{prefix}.lambda_min_bound": float(residuals["smallest_residuals"][0]),
                f"{prefix}.unconverged": int(np.sum(~pairs.converged)),
                f"{prefix}.products": pairs.num_products,
            }
        )
    return measurement


MEASURE = Measure(
    spectrum_edges,
    cost=lambda settings, num_params: settings.edge_products * len(settings.operators),
    doc="the largest and the smallest eigenvalues are computed by Lanczos",
    names={
        # The residual beside such a number tells it from an estimate of the same by quadrature.
        "<operator>.extremes.lambda_max": ("λ_max(<operator>)", r"$\lambda_{\max}(<operator>)$"),
        "<operator>.extremes.lambda_min": ("λ_min(<operator>)", r"$\lambda_{\min}(<operator>)$"),
    },
)
