"""What other libraries do not promise, in one place.

JAX guarantees nothing about `jax.core` and `jax.extend` from one release to the next, nor about the methods of a
primitive. `tests/test_compat.py` holds what is used of them against whatever version is installed, and that no other
file uses anything of the kind. Look here first when a new JAX breaks something.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.extend import core as jex_core

# Jaxprs as `jax.make_jaxpr` gives them: the equations, the same with constants, and a number written into an equation.
# From JAX 0.12 on the first two are one class.
Jaxpr = jex_core.Jaxpr
ClosedJaxpr = jex_core.ClosedJaxpr
Literal = jex_core.Literal


def is_traced(value: Any) -> bool:
    """Whether `value` stands for an array that is known only when a transformed function runs."""
    return isinstance(value, jax.core.Tracer)


def setting(name: str) -> Any:
    """A setting of JAX as it stands in this thread; `jax.config.update` is promised, no way of reading is."""
    return getattr(jax.config, name)


def bind(equation: Any, inputs: Sequence[Any], params: Mapping[str, Any] | None = None) -> list[Any]:
    """The outputs of one equation of a jaxpr at `inputs`, with `params` in place of its own parameters if given."""
    primitive = equation.primitive
    outputs = primitive.bind(*inputs, **primitive.get_bind_params(dict(equation.params if params is None else params)))
    return list(outputs) if primitive.multiple_results else [outputs]
