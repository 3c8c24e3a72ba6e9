"""The matmul precision that measurements run in: the highest, unless the user has asked for another."""

from contextlib import AbstractContextManager

import jax


def name() -> str:
    """The user's `jax.default_matmul_precision`, or "highest": TF32 and bfloat16 passes change small eigenvalues."""
    return jax.config.jax_default_matmul_precision or "highest"  # type: ignore[attr-defined]


def chosen() -> AbstractContextManager[None]:
    """A context in which every matrix product is done in that precision."""
    return jax.default_matmul_precision(name())
