"""λ_max of the matrix that decides an optimiser's stability, over the largest that it is stable at."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax

import hessflat.curvature as cv
from hessflat.config import at_least
from hessflat.measures.eval_state import EvalState, curvature_operator, modes_by_suffix
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.utils.errors import SettingError


def stability_edge(
    state: EvalState,
    *,
    edge_batches: Annotated[
        int,
        at_least(2),
        "mini-batches for the batch sharpness of measure.stability_edge, unless a step takes all examples",
    ] = 64,
) -> Measurement:
    """`edge.lambda_max` is λ_max(P^-1/2 H P^-1/2), `edge.threshold` the edge of `curvature.edges`, `edge.ratio` both.

    P and the edge are those of the optimiser: `optim.name` with its momentum, and of SAM where `optim.sam_radius` is
    above 0, with the norm of the gradient of the measured examples, `edge.gradient_norm`. λ_max is found to
    `measure.rtol`, `edge.lambda_max_bound` is its residual. Where a step takes a part of the examples,
    `edge.batch_sharpness` is that of mini-batches of so many, `edge.batch_ratio` the same over the edge, and their
    `_se` the standard errors over `measure.edge_batches` of them. Before the first step Adam has no P, and is not
    measured.

    Raises:
        SettingError: a learning rate that changes, or SAM with an adaptive optimiser.
    """
    optimiser = state.optimiser
    (mode, *_) = modes_by_suffix(state.protocol, state.batch_stats).values()
    H, key = curvature_operator(state, "hessian", mode, spread=False), jax.random.key(state.protocol.seed)
    gradient = cv.gradient(H)
    norm = sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)) ** 0.5
    scalars: Scalars = {"edge.gradient_norm": norm}
    threshold = edge_of(optimiser, norm)
    op = H
    if optimiser["name"] != "sgd":
        if not optimiser["step"]:
            return Measurement({}, {})
        names = ("b1", "b2", "eps")
        P = cv.preconditioner(state.opt_state, state.params, **{name: optimiser[name] for name in names})
        op = cv.preconditioned(H, P)
    top = cv.sharpness(op, key, rtol=state.protocol.rtol)
    scalars |= {
        "edge.lambda_max": top.value,
        "edge.lambda_max_bound": top.residual,
        "edge.threshold": threshold,
        "edge.ratio": top.value / threshold,
    }
    number = len(state.splits["train"]["labels"])
    if optimiser["name"] == "sgd" and 0 < optimiser["batch_size"] < number:
        batch = cv.batch_sharpness(H, key, optimiser["batch_size"], edge_batches)
        scalars |= {"edge.batch_sharpness": batch.value, "edge.batch_sharpness_se": batch.standard_error}
        scalars |= {
            "edge.batch_ratio": batch.value / threshold,
            "edge.batch_ratio_se": batch.standard_error / threshold,
        }
    return Measurement(scalars, {})


def edge_of(optimiser: Mapping[str, Any], gradient_norm: float) -> float:
    """The edge of stability of an optimiser, by its settings.

    Args:
        optimiser: `name`, `lr`, `schedule`, `sam_radius`, and the settings of the optimiser by that name.
        gradient_norm: of the loss, for SAM.
    """
    name, rate, radius = optimiser["name"], optimiser["lr"], optimiser["sam_radius"]
    if optimiser["schedule"] != "constant":
        raise SettingError(
            f"measure.stability_edge needs a constant rate, got config.schedule.name={optimiser['schedule']!r}; set "
            "it to 'constant'"
        )
    if name != "sgd":
        if radius:
            raise SettingError("the edge of SAM is known for sgd without momentum; set config.optim.sam_radius=0")
        return float(cv.edges.adam(rate, optimiser["b1"]))
    momentum = optimiser["momentum"]
    if radius and momentum:
        raise SettingError("the edge of SAM is known for sgd without momentum; set config.optim.sgd.momentum=0")
    if radius:
        return float(cv.edges.sam(rate, radius, gradient_norm))
    return float((cv.edges.nesterov if optimiser["nesterov"] else cv.edges.heavy_ball)(rate, momentum))


MEASURE = Measure(
    stability_edge,
    # A product over a mini-batch takes less than one over all examples.
    cost=lambda settings, num_params: 20 + settings.edge_batches / 8,
    doc="λ_max is compared with the edge of stability of the optimiser",
    names={
        "edge.lambda_max": ("λ_max(P^-1/2 H P^-1/2)", r"$\lambda_{\max}(P^{-1/2} H P^{-1/2})$"),
        "edge.threshold": "edge of stability",
        "edge.ratio": ("λ_max over its edge", r"$\lambda_{\max}$ over its edge"),
        "edge.batch_sharpness": "batch sharpness",
        "edge.batch_ratio": "batch sharpness over 2/η",
        "edge.gradient_norm": "gradient norm",
    },
)
