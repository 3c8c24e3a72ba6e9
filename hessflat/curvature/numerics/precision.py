"""The matmul precision that measurements run in: the highest, unless the user has asked for another."""

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from hessflat.utils import compat

# JAX's settings, from the fastest to the most exact, and what each is on a backend. A CPU knows only the last.
_LEVELS = {
    **dict.fromkeys(("default", "fastest", "bfloat16"), 0),
    **dict.fromkeys(("high", "tensorfloat32", "bfloat16_3x"), 1),
    **dict.fromkeys(("highest", "float32"), 2),
}
_DONE_IN = {
    "cpu": ("highest", "highest", "highest"),
    "gpu": ("tensorfloat32", "tensorfloat32", "highest"),
    "tpu": ("bfloat16", "bfloat16_3x", "highest"),
}
_EPSILONS = {
    **dict.fromkeys(("tensorfloat32", "TF32_TF32_F32", "F16_F16_F32"), 2.0**-10),
    **dict.fromkeys(("bfloat16", "BF16_BF16_F32"), 2.0**-7),
    **dict.fromkeys(("bfloat16_3x", "BF16_BF16_F32_X3"), 2.0**-16),
}


def name() -> str:
    """What products of float32 matrices are done in: "highest", "tensorfloat32", "bfloat16_3x" or "bfloat16".

    It follows from the backend and the user's `jax.default_matmul_precision`; a dot algorithm stays as it is.
    """
    asked = _asked()
    levels = _DONE_IN.get(jax.default_backend())
    return levels[_LEVELS[asked]] if levels and asked in _LEVELS else asked


def chosen() -> AbstractContextManager[None]:
    """A context in which every matrix product is done in the user's precision, or else in the highest.

    TF32 and bfloat16 passes change small eigenvalues, so they are never taken unasked.
    """
    return jax.default_matmul_precision(_asked())


def epsilon(dtype: Any, precision: str) -> float:
    """The relative rounding of a product in `precision` on numbers of type `dtype`."""
    own = float(jnp.finfo(dtype).eps)
    return own if jnp.dtype(dtype).itemsize > 4 else max(own, _EPSILONS.get(precision, 0.0))


def _asked() -> str:
    return str(compat.setting("jax_default_matmul_precision") or "highest")
