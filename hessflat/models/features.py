"""What goes into each dense layer of a network."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn


def dense_features(apply: Callable, params: Any, statistics: Any, inputs: jax.Array) -> dict[str, jax.Array]:
    """`[n, ..., d]` by the path of the layer in the parameters, `a/b/Dense_0`, in the order of calls, in eval mode.

    `apply` is that of a `Model`.
    """
    found: dict[str, jax.Array] = {}

    def keep(call: Callable, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            found["/".join(context.module.path)] = arguments[0]
        return call(*arguments, **keywords)

    with nn.intercept_methods(keep):
        apply(params, statistics, inputs, False)
    return found
