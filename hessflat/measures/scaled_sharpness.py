"""λ_max of the Hessian in coordinates that grow with the weights, so that rescaling layers changes it less or not."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.measures.eval_state import EvalState, curvature_batches, modes_by_suffix
from hessflat.measures.measurement import Measure, Measurement, Scalars


def scaled_sharpness(state: EvalState) -> Measurement:
    """λ_max(T H T) for two T, diagonal, to `measure.rtol`, in each mode of batch norm.

    `hessian.adaptive_lambda_max` has T = |w|: to second order, the sharpness over the ball in which an adaptive
    perturbation moves (Kwon et al. 2021, *ASAM*, section 3, element-wise). A factor that moves from one layer of a ReLU
    network to the next leaves it as it is. `hessian.filter_lambda_max` has for every weight the norm of its filter, and
    0 for biases and the scales of normalisation (Li et al. 2018, *Visualizing the loss landscape*, section 4).
    """
    scalars: Scalars = {}
    batch_stats = state.batch_stats if state.has_batch_norm else {}
    origin = jax.tree.map(jnp.zeros_like, state.params)
    for suffix, mode in modes_by_suffix(state.protocol, state.batch_stats).items():
        loss, batches = _scaled_loss(state.functions(mode).loss), curvature_batches(state, mode)
        for name, scales in {"adaptive": jnp.abs, "filter": _filter_norms}.items():
            fixed = (batch_stats, state.params, jax.tree.map(scales, state.params))
            op = cv.hessian(loss, origin, batches, fixed)
            top = cv.sharpness(op, jax.random.key(state.protocol.seed), rtol=state.protocol.rtol)
            scalars[f"hessian{suffix}.{name}_lambda_max"] = top.value
            scalars[f"hessian{suffix}.{name}_lambda_max_bound"] = top.residual
    return Measurement(scalars, {})


@cache
def _scaled_loss(loss: Callable) -> Callable:
    """The loss at w + T u as a function of u: T H T is its Hessian at u = 0. Made once, so that it is compiled once."""

    def scaled(moved: Any, batch: Mapping[str, jax.Array], fixed: tuple[Any, Any, Any]) -> jax.Array:
        batch_stats, weights, scales = fixed
        params = jax.tree.map(lambda w, t, u: w + t * u, weights, scales, moved)
        return loss(params, batch, batch_stats)

    return scaled


def _filter_norms(weights: jax.Array) -> jax.Array:
    if weights.ndim < 2:
        return jnp.zeros_like(weights)
    norms = jnp.linalg.norm(weights.reshape(-1, weights.shape[-1]), axis=0)
    return jnp.broadcast_to(norms, weights.shape)


MEASURE = Measure(
    scaled_sharpness,
    cost=lambda settings, num_params: 40,
    doc="λ_max of T H T is measured, T = |w| and norms of filters",
    names={
        "<operator>.adaptive_lambda_max": ("λ_max(|w| <operator> |w|)", r"$\lambda_{\max}(|w|\,<operator>\,|w|)$"),
        "<operator>.filter_lambda_max": (
            "filter-normalised λ_max(<operator>)",
            r"filter-normalised $\lambda_{\max}(<operator>)$",
        ),
    },
)
