"""One loop, two ways to run it: compiled into `jax.lax`, or driven from Python over a jitted body.

XLA's CPU compiler runs the gradients of convolutions 20 to 60 times slower inside a loop body than outside one, so
on a CPU a loop over convolutions is driven from Python; everywhere else it is compiled. `choose_loop` decides.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

Loop = Literal["scan", "host"]


def scan(body: Callable, carry: Any, xs: Any, loop: Loop = "scan") -> tuple[Any, Any]:
    """`jax.lax.scan(body, carry, xs)`; with `loop="host"` the same from Python.

    In the host form `body` runs eagerly once per element of `xs`, so it should be jitted, or call jitted functions.
    """
    if loop == "scan":
        return jax.lax.scan(body, carry, xs)
    ys = []
    for i in range(jax.tree.leaves(xs)[0].shape[0]):
        carry, y = body(carry, jax.tree.map(lambda x: x[i], xs))  # noqa: B023
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def choose_loop(function: Callable, *args: Any) -> Loop:
    """`"host"` on a CPU where `function(*args)` holds a convolution, else `"scan"`. `args` may be shapes."""
    if jax.default_backend() != "cpu":
        return "scan"
    return "host" if has_convolution(jax.make_jaxpr(function)(*args).jaxpr) else "scan"


def has_convolution(jaxpr: jex_core.Jaxpr) -> bool:
    """Whether a convolution stands anywhere in a jaxpr, inner jaxprs included."""
    return any(
        equation.primitive.name == "conv_general_dilated" or any(map(has_convolution, _inner(equation.params)))
        for equation in jaxpr.eqns
    )


def _inner(params: dict[str, Any]) -> list[jex_core.Jaxpr]:
    values = [v for value in params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    closed = [v.jaxpr for v in values if isinstance(v, jex_core.ClosedJaxpr)]
    return closed + [v for v in values if isinstance(v, jex_core.Jaxpr)]
