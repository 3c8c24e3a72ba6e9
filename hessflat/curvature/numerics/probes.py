"""Random vectors with E[v vᵀ] = I / P, so that P v'A v estimates a trace."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.utils.errors import InputError, nearest

Probe = Literal["rademacher", "gaussian"]


def draw(key: Array, size: int, dtype: jnp.dtype, probe: Probe, number: int = 0) -> Array:
    """A unit vector [P]: random signs (the lower variance for a trace), or uniform on the sphere.

    Every `number` has a vector of its own. NumPy draws them, seeded with the key and the number: there is nothing
    to compile, and they are the same on every backend and, but for rounding, in every precision.
    """
    generator = np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), number])
    if probe == "rademacher":
        bits = np.unpackbits(np.frombuffer(generator.bytes(math.ceil(size / 8)), np.uint8), count=size)
        vector = (np.array([-1.0, 1.0]) / math.sqrt(size)).astype(dtype)[bits]
    else:
        vector = generator.standard_normal(size)
        vector = (vector / np.linalg.norm(vector)).astype(dtype)
    return jnp.asarray(vector)


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
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = hasattr(key, "dtype") and key.dtype == jnp.uint32 and key.shape == (2,)
    if not ((typed and key.shape == ()) or raw):
        raise InputError(f"key must be one random key such as jax.random.key(0), got {type(key).__name__}")
