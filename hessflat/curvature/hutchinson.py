"""Trace and Frobenius norm from random probes, one product each."""

from collections.abc import Callable
from functools import partial

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


def trace(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: fold.Loop | None = None
) -> Estimate:
    """Tr A as the mean of zᵀ A z over random sign vectors (Hutchinson 1989).

    Raises:
        InputError: a count below 1, an unknown probe, or products that are not finite.
    """
    return estimates.mean(_samples(_quadratic, op, key, num_probes, probe, loop))


def frobenius(
    op: Operator, key: Array, num_probes: int = 10, probe: Probe = "rademacher", loop: fold.Loop | None = None
) -> Estimate:
    """‖A‖_F as the root of the mean of ‖A z‖², its error by the delta method.

    Raises:
        InputError: as `trace`.
    """
    return estimates.square_root(estimates.mean(_samples(_squared_length, op, key, num_probes, probe, loop)))


def _quadratic(vector: Array, product: Array) -> Array:
    return vector.size * jnp.vdot(vector, product)


def _squared_length(vector: Array, product: Array) -> Array:
    return vector.size * jnp.vdot(product, product)


def _samples(
    function: Callable, op: Operator, key: Array, num_probes: int, probe: Probe, loop: fold.Loop | None
) -> np.ndarray:
    probes.require_key(key)
    probes.require_count("num_probes", num_probes)
    probes.require_probe(probe)
    keys, loop = jax.random.split(key, num_probes), loop_for(op, loop)
    with precision.chosen():
        if loop == "scan":
            samples = _samples_compiled(function, op, keys, probe)
        else:
            samples = jnp.stack([_sample(function, op, key, probe, loop) for key in keys])
    if not bool(jnp.isfinite(samples).all()):
        raise InputError("the operator gives products that are not finite; look at the loss at these parameters")
    return np.asarray(samples, np.float64)


def _sample(function: Callable, op: Operator, key: Array, probe: Probe, loop: fold.Loop) -> Array:
    vector = probes.draw(key, op.size, op.dtype, probe)
    return function(vector, matvec(op, vector, loop))


@partial(jax.jit, static_argnums=(0, 3))
def _samples_compiled(function: Callable, op: Operator, keys: Array, probe: Probe) -> Array:
    return jax.lax.map(lambda key: _sample(function, op, key, probe, "scan"), keys)
