"""A network layer by layer: what goes into each and comes out of it, and each as a function by itself.

Of *On progressive sharpening*, §3: f_L ∘ ⋯ ∘ f_1. A layer is a module with parameters of its own: a dense layer, a
convolution, a normalisation. What has no parameters, an activation say, belongs to the layer after it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from hessflat.utils.errors import InputError


class Layer(NamedTuple):
    """A layer in one pass through the network."""

    inputs: jax.Array  # [n, ...]
    outputs: jax.Array  # [n, ...] f_l(θ_l, inputs)
    params: Any  # θ_l
    alone: Callable[[Any], jax.Array]  # θ_l -> f_l(θ_l, inputs), apart from the network


def apply_by_layer(
    apply: Callable[..., tuple[jax.Array, Any]],
    params: Any,
    batch_stats: Any,
    inputs: jax.Array,
    change: Callable[[str, jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, Layer]]:
    """Logits and every layer by name, in the order of the pass, batch norm in eval mode.

    `apply` is that of a `Model`. What goes on from a layer is `change(name, outputs)`, where there is one.

    Raises:
        InputError: a layer that is passed through more than once, whose parameters are then not of one layer.
    """
    layers: dict[str, Layer] = {}

    def intercept(function: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        module, variables = context.module, {}
        if context.method_name == "__call__":
            variables = dict(module.variables)
        own = variables.pop("params", {})
        if all(isinstance(value, Mapping) for value in own.values()):
            return function(*args, **kwargs)
        name = "/".join(module.path)
        if name in layers:
            raise InputError(f"the layer {name} is passed through more than once; use a model that has no such layer")
        outputs = function(*args, **kwargs)
        by_itself = module.clone(parent=None)
        layers[name] = Layer(
            args[0], outputs, own, lambda p: by_itself.apply({"params": p, **variables}, *args, **kwargs)
        )
        return change(name, outputs) if change else outputs

    with nn.intercept_methods(intercept):
        logits, _ = apply(params, batch_stats, inputs, False)
    return logits, layers
