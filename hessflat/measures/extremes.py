"""The two ends of a spectrum too large to be known as a whole: *Empirical Analysis of the Hessian*, §3.2 to 3.4.

A network with one hidden layer of h ReLU units, softmax and C classes has at most (C − 1) h negative eigenvalues.
R = H − G is zero but for the blocks that couple the weights out of a hidden unit with those into it; the C rows of such
a block add up to zero, as the gradient of the loss by the logits does; so R has rank 2 (C − 1) h at most, half of its
eigenvalues are negative, and adding G, which has none, makes them no more. So the tail is short in per cent of P, and
can be had by Lanczos.
"""

import math

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.measures.spectra import named, operator_of
from hessflat.measures.subject import Measured, Subject
from hessflat.utils.errors import InputError


def extremes(subject: Subject) -> Measured:
    """The `measure.largest` largest eigenvalues of each operator, and the `measure.smallest_share` of P smallest.

    Each array `<operator>-extremes` holds `largest` [k] in decreasing and `smallest` [m] in increasing order, with
    `largest_residuals` and `smallest_residuals`, and `num_params`, P. An eigenvalue lies within its residual of each
    value. A value counts as converged when its residual is at most `measure.rtol` of it, or 50 roundings of the largest
    (6e-6 of it in float32); whatever has not after `measure.extremes_products` products is there, too, and counted as
    `unconverged`. All Lanczos vectors are kept, so that no restart throws away what the tail has gained.
    """
    found, settings = Measured({}, {}), subject.settings
    for operator, (name, mode) in named(settings, subject.statistics, "operators").items():
        op = operator_of(subject, name, mode)
        smallest = max(1, math.ceil(settings["smallest_share"] * op.size))
        counts = {"largest": settings["largest"], "smallest": smallest}
        if sum(counts.values()) > op.size:
            raise InputError(
                f"config.measure.largest and smallest_share must be {op.size} eigenvalues at most, those there are, "
                f"got {counts['largest']} and {smallest}; measure all, by config.measure.exact"
            )
        products, wanted = settings["extremes_products"], sum(counts.values())
        if products < min(wanted + 4, op.size):
            raise InputError(
                f"config.measure.extremes_products must be at least {wanted + 4}, for {wanted} eigenvalues, "
                f"got {products}"
            )
        pairs = cv.eigenpairs(
            op,
            jax.random.key(settings["seed"]),
            (counts["largest"], counts["smallest"]),
            "both",
            rtol=settings["rtol"],
            max_steps=products,
            num_vectors=products,
            show_progress=False,
        )
        first, last = (slice(counts["largest"]), slice(counts["largest"], None))
        values = {"largest": pairs.values[first], "smallest": pairs.values[last]}
        residuals = {
            "largest_residuals": pairs.residuals[first],
            "smallest_residuals": pairs.residuals[last],
        }
        found.arrays[f"{operator}-extremes"] = values | residuals | {"num_params": np.array(op.size)}
        prefix = f"{operator}.extremes"
        found.scalars.update(
            {
                f"{prefix}.lambda_max": float(values["largest"][0]),
                f"{prefix}.lambda_max_bound": float(residuals["largest_residuals"][0]),
                f"{prefix}.lambda_min": float(values["smallest"][0]),
                f"{prefix}.lambda_min_bound": float(residuals["smallest_residuals"][0]),
                f"{prefix}.unconverged": int(np.sum(~pairs.converged)),
                f"{prefix}.products": pairs.num_products,
            }
        )
    return found
