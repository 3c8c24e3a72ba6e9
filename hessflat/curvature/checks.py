"""Is this operator what the measurements take it for: the same every time, symmetric and finite?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import probes
from hessflat.curvature.operators import Operator
from hessflat.errors import InputError


class Check(NamedTuple):
    """Relative errors, both within the tolerance."""

    repeat: float  # ‖A v − A v‖ / ‖A v‖ of the same product done twice
    asymmetry: float  # |v·A w − w·A v| / (‖A v‖ + ‖A w‖) for unit v, w
    tolerance: float


def check(op: Operator, key: Array, tolerance: float | None = None) -> Check:
    """Three products with two random vectors; the tolerance is 1,000 roundings of the operator's type by default.

    Raises:
        InputError: products that are not finite, differ from one call to the next, or are not symmetric.
    """
    probes.require_key(key)
    tolerance = 1e3 * float(jnp.finfo(op.dtype).eps) if tolerance is None else tolerance
    v, w = (probes.draw(k, op.size, op.dtype, "gaussian") for k in jax.random.split(key))
    av, again, aw = op(v), op(v), op(w)
    if not bool(jnp.isfinite(av).all() & jnp.isfinite(aw).all()):
        raise InputError("the operator gives products that are not finite; look at the loss at these parameters")
    scale = jnp.linalg.norm(av) + jnp.linalg.norm(aw)
    scale = jnp.where(scale > 0, scale, 1)
    repeat = float(jnp.linalg.norm(av - again) / scale)
    asymmetry = float(jnp.abs(jnp.vdot(v, aw) - jnp.vdot(w, av)) / scale)
    if repeat > tolerance:
        raise InputError(
            f"the operator must be deterministic: the same product came out {repeat:.1e} (relative) apart; "
            "fix dropout, augmentation and order of the data"
        )
    if asymmetry > tolerance:
        raise InputError(
            f"the operator must be symmetric: v·Aw and w·Av are {asymmetry:.1e} (relative) apart, "
            f"tolerance {tolerance:.1e}; look for custom derivatives or a map that is not symmetric"
        )
    return Check(repeat, asymmetry, tolerance)
