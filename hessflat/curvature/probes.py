"""Random vectors with E[v vᵀ] = I / P, so that P v'A v estimates a trace."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.errors import InputError, nearest

Probe = Literal["rademacher", "gaussian"]


# Jitted by itself, for random bits take long to compile and every measurement draws the same ones.
@partial(jax.jit, static_argnums=(1, 2, 3))
def draw(key: Array, size: int, dtype: jnp.dtype, probe: Probe) -> Array:
    """One unit vector [P]: random signs (the lower variance for a trace), or uniform on the sphere."""
    if probe == "rademacher":
        return jax.random.rademacher(key, (size,), dtype) / jnp.sqrt(jnp.asarray(size, dtype))
    vector = jax.random.normal(key, (size,), dtype)
    return vector / jnp.linalg.norm(vector)


def require_probe(probe: str) -> None:
    """Refuse an unknown kind of probe."""
    if probe not in ("rademacher", "gaussian"):
        raise InputError(f"unknown probe {probe!r}; {nearest(probe, ('rademacher', 'gaussian'))}")


def require_count(what: str, value: int) -> None:
    """Refuse a count that is not a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} must be a whole number of at least 1, got {value!r}")


def require_key(key: Array) -> None:
    """Refuse anything but one random key, of either kind."""
    typed = isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = hasattr(key, "dtype") and key.dtype == jnp.uint32 and key.shape == (2,)
    if not ((typed and key.shape == ()) or raw):
        raise InputError(f"key must be one random key such as jax.random.key(0), got {type(key).__name__}")
