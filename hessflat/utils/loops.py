"""One loop, two ways to run it: compiled into `jax.lax`, or driven from Python over a jitted body.

XLA's CPU compiler runs the gradients of convolutions 20 to 60 times slower inside a loop body than outside one, so
on a CPU a loop over convolutions that are not `convolution.canonical` is driven from Python; everything else is
compiled. `choose_loop` decides.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from hessflat.utils import compat, convolution

Loop = Literal["scan", "python"]


def scan(body: Callable, carry: Any, xs: Any, loop: Loop = "scan") -> tuple[Any, Any]:
    """`jax.lax.scan(body, carry, xs)`; with `loop="python"` the same from Python.

    In the Python form `body` runs eagerly once per element of `xs`, so it should be jitted, or call jitted functions.
    """
    if loop == "scan":
        return jax.lax.scan(body, carry, xs)
    ys = []
    for i in range(jax.tree.leaves(xs)[0].shape[0]):
        carry, y = body(carry, jax.tree.map(lambda x: x[i], xs))  # noqa: B023
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def choose_loop(function: Callable, *args: Any, platform: str | None = None) -> Loop:
    """`"python"` on a CPU where `function(*args)` holds a convolution that is slow in loops, else `"scan"`.

    Args:
        function: what the body of the loop does.
        *args: trees of arrays, or of shapes.
        platform: where the loop runs; by default where `args` lie.
    """
    if (platform or platform_of(args)) != "cpu":
        return "scan"
    return "python" if convolution.has_slow(jax.make_jaxpr(function)(*args).jaxpr.eqns) else "scan"


def platform_of(tree: Any) -> str:
    """The platform, "cpu" say, of the devices that the arrays of `tree` lie on.

    For shapes, NumPy arrays and traced arrays it is that of the device on which JAX makes new arrays.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not compat.is_traced(leaf):
            return next(iter(leaf.devices())).platform
    device = compat.setting("jax_default_device")
    if isinstance(device, str):
        return device
    return (device or jax.devices()[0]).platform
