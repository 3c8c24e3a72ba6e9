"""The trace of an operator from a budget of products, by one of three estimators."""

import time
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature.numerics import estimates, precision, probes
from hessflat.curvature.numerics.estimates import Estimate
from hessflat.curvature.numerics.probes import Probe
from hessflat.curvature.operators.operator import Operator, linearize, loop_for, require_finite
from hessflat.curvature.stochtrace.hutchinson import quadratic_samples
from hessflat.curvature.stochtrace.hutchpp import hutchpp
from hessflat.curvature.stochtrace.sketch import TraceParts
from hessflat.curvature.stochtrace.xtrace import xtrace
from hessflat.utils import loops
from hessflat.utils.errors import InputError, nearest

Method = Literal["hutchinson", "hutch++", "xtrace"]

# The fewest products that give an estimate.
_LEAST: dict[str, int] = {"hutchinson": 1, "hutch++": 3, "xtrace": 2}


def trace(
    op: Operator,
    key: Array,
    num_products: int = 30,
    method: Method = "hutchinson",
    probe: Probe | None = None,
    loop: loops.Loop | None = None,
) -> Estimate:
    """Tr A with a standard error, from at most n products. All three methods are unbiased.

    - "hutchinson": the mean of zᵀAz over random signs z (Hutchinson 1989). Error ∝ ‖A‖_F / √n, memory of two vectors.
    - "hutch++" (Meyer, Musco, Musco & Woodruff 2021): a random subspace is taken out first. Exact, up to rounding,
      for A of rank below n / 3, better wherever the spectrum decays; memory of n vectors.
    - "xtrace" (Epperly, Tropp & Webber 2024): the same, every vector serving twice. Exact for A of rank below n / 2,
      the smallest error for decaying spectra; memory of 3/2 n vectors.

    Vectors are [P]. A standard error is never below the rounding of the products. With n at P or above, the diagonal
    is summed instead: P products, nothing random, exact up to rounding.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_products: n; "hutch++" and "xtrace" make fewer where they find a lower rank.
        method: "hutchinson", "hutch++" or "xtrace".
        probe: of "hutchinson": "rademacher" (the default) or "gaussian". The others need the symmetry of the sphere,
            and take "gaussian" alone.
        loop: "scan", "python" or None to choose.

    Raises:
        InputError: an unknown method or probe, fewer products than it needs, or products that are not finite.
    """
    began = time.perf_counter()
    probes.require_key(key)
    _require_budget(num_products, method)
    _require_probe(method, probe)
    loop, op = loop_for(op, loop), linearize(op)
    with precision.chosen():
        if num_products >= op.size:
            result = _diagonal(op)
        elif method == "hutchinson":
            result = _hutchinson(op, key, num_products, probe or "rademacher", loop)
        else:
            result = (hutchpp if method == "hutch++" else xtrace)(op, key, num_products, loop)
    require_finite(result.parts)
    rounding = float(jnp.finfo(op.dtype).eps) * np.abs(result.parts).sum()
    error = float(np.maximum(result.standard_error, rounding))  # nan stays
    return Estimate(float(result.parts.sum()), error, *estimates.cost_since(began, result.num_products))


def _hutchinson(op: Operator, key: Array, num_products: int, probe: Probe, loop: loops.Loop) -> TraceParts:
    first, _, scale = quadratic_samples(op, key, num_products, probe, loop).T
    samples = op.size * scale * first
    return TraceParts(samples / num_products, float(estimates.standard_error(samples)), num_products)


def _diagonal(op: Operator) -> TraceParts:
    return TraceParts(np.diagonal(np.asarray(op.to_dense(), np.float64)), 0.0, op.size)


def _require_budget(num_products: int, method: str) -> None:
    if method not in _LEAST:
        raise InputError(f"unknown method {method!r}; {nearest(method, _LEAST)}")
    probes.require_count("num_products", num_products)
    if num_products < _LEAST[method]:
        raise InputError(f"{method} needs num_products of at least {_LEAST[method]}, got {num_products}")


def _require_probe(method: str, probe: str | None) -> None:
    if probe is not None:
        probes.require_probe(probe)
    if method != "hutchinson" and probe == "rademacher":
        raise InputError(f"{method} takes probe='gaussian' alone, got 'rademacher'; leave probe out")
