"""λ_max of the Hessian in coordinates that grow with the weights, so that rescaling layers changes it less or not."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.measures.subject import Measured, Scalars, Subject, batches_of, functions_of, modes_of


def scaled_sharpness(subject: Subject) -> Measured:
    """λ_max(T H T) for two T, diagonal, found to `measure.rtol`, in each mode of batch norm.

    `hessian.adaptive_lambda_max` has T = |w|: to second order, the sharpness over the ball in which an adaptive
    perturbation moves (Kwon et al. 2021, *ASAM*, section 3, element-wise). A factor that moves from one layer of a ReLU
    network to the next leaves it as it is. `hessian.filter_lambda_max` has for every weight the norm of its filter, and
    0 for biases and the scales of normalisation (Li et al. 2018, *Visualizing the loss landscape*, section 4).
    """
    scalars: Scalars = {}
    statistics = subject.statistics if jax.tree.leaves(subject.statistics) else {}
    origin = jax.tree.map(jnp.zeros_like, subject.params)
    for suffix, mode in modes_of(subject.settings, subject.statistics).items():
        loss, batches = _scaled_loss(functions_of(subject.model, subject.loss, mode).loss), batches_of(subject, mode)
        for name, scales in {"adaptive": jnp.abs, "filter": _filter_norms}.items():
            state = (statistics, subject.params, jax.tree.map(scales, subject.params))
            op = cv.hessian(loss, origin, batches, state)
            top = cv.sharpness(op, jax.random.key(subject.settings["seed"]), rtol=subject.settings["rtol"])
            scalars[f"hessian{suffix}.{name}_lambda_max"] = top.value
            scalars[f"hessian{suffix}.{name}_lambda_max_bound"] = top.residual
    return Measured(scalars, {})


@cache
def _scaled_loss(loss: Callable) -> Callable:
    """The loss at w + T u as a function of u: T H T is its Hessian at u = 0. Made once, so that it is compiled once."""

    def scaled(moved: Any, batch: Mapping[str, jax.Array], state: tuple[Any, Any, Any]) -> jax.Array:
        statistics, weights, scales = state
        params = jax.tree.map(lambda w, t, u: w + t * u, weights, scales, moved)
        return loss(params, batch, statistics)

    return scaled


def _filter_norms(weights: jax.Array) -> jax.Array:
    if weights.ndim < 2:
        return jnp.zeros_like(weights)
    norms = jnp.linalg.norm(weights.reshape(-1, weights.shape[-1]), axis=0)
    return jnp.broadcast_to(norms, weights.shape)
