"""Trace and Frobenius norm from random probes, one product each."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat import fold
from hessflat.curvature import estimates, precision, probes
from hessflat.curvature.estimates import Estimate
from hessflat.curvature.operators import Operator, loop_for, matvec
from hessflat.curvature.probes import Probe
from hessflat.errors import InputError


class Moments(NamedTuple):
    """The first two moments of the spectrum of an operator of size P, each with its standard error over probes."""

    trace: Estimate  # Tr A
    mean_eigenvalue: Estimate  # Tr A / P
    frobenius: Estimate  # ‖A‖_F = (Σ λ²)^½
    second_moment: Estimate  # Σ λ² / P


def moments(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: fold.Loop | None = None
) -> Moments:
    """Tr A as the mean of zᵀ A z over random sign vectors (Hutchinson 1989), ‖A‖²_F as the mean of ‖A z‖².

    Both come from the same product of a probe; the error of the root is by the delta method.

    Raises:
        InputError: a count below 1, an unknown probe, or products that are not finite.
    """
    # Probes are drawn with length 1, so that a sample estimates a mean over eigenvalues.
    first, second = _samples(op, key, num_probes, probe, loop).T
    return Moments(
        estimates.mean(op.size * first),
        estimates.mean(first),
        estimates.square_root(estimates.mean(op.size * second)),
        estimates.mean(second),
    )


def trace(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: fold.Loop | None = None
) -> Estimate:
    """Tr A with its standard error: `moments(...).trace`."""
    return moments(op, key, num_probes, probe, loop).trace


def frobenius(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: fold.Loop | None = None
) -> Estimate:
    """‖A‖_F with its standard error: `moments(...).frobenius`."""
    return moments(op, key, num_probes, probe, loop).frobenius


def _samples(op: Operator, key: Array, num_probes: int, probe: Probe, loop: fold.Loop | None) -> np.ndarray:
    """vᵀ A v and ‖A v‖² for each probe v of length 1: float64 [k, 2]."""
    probes.require_key(key)
    probes.require_count("num_probes", num_probes)
    probes.require_probe(probe)
    keys, loop = jax.random.split(key, num_probes), loop_for(op, loop)
    with precision.chosen():
        if loop == "scan":
            samples = _samples_compiled(op, keys, probe)
        else:
            samples = jnp.stack([_sample(op, key, probe, loop) for key in keys])
    if not bool(jnp.isfinite(samples).all()):
        raise InputError("the operator gives products that are not finite; look at the loss at these parameters")
    return np.asarray(samples, np.float64)


def _sample(op: Operator, key: Array, probe: Probe, loop: fold.Loop) -> Array:
    vector = probes.draw(key, op.size, op.dtype, probe)
    product = matvec(op, vector, loop)
    return jnp.stack([jnp.vdot(vector, product), jnp.vdot(product, product)])


@partial(jax.jit, static_argnums=2)
def _samples_compiled(op: Operator, keys: Array, probe: Probe) -> Array:
    return jax.lax.map(lambda key: _sample(op, key, probe, "scan"), keys)
