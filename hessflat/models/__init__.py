"""Networks as pure functions of their parameters. To add one: a file here and a line in `MODELS`.

A builder takes the number of classes and, keyword-only, its settings; it returns a `flax.linen` module whose call is
`module(inputs, train)`. This folder is the only one that knows flax.linen.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
from flax import linen as nn

from hessflat.models.mlp import mlp
from hessflat.models.softmax_regression import softmax_regression

MODELS: Mapping[str, Callable[..., nn.Module]] = {"softmax_regression": softmax_regression, "mlp": mlp}


class Model(NamedTuple):
    """`init(key, inputs) -> (params, statistics)`; `apply(params, statistics, inputs, train) -> (logits, statistics)`.

    `statistics` are the running averages of batch normalisation, an empty dict for models without it. With `train`
    set, batch normalisation uses (and is differentiated through) the statistics of the inputs it is given.
    """

    init: Callable[[jax.Array, jax.Array], tuple[Any, Any]]
    apply: Callable[[Any, Any, jax.Array, bool], tuple[jax.Array, Any]]


def build(name: str, num_classes: int, **settings: Any) -> Model:
    """The model that `name` stands for in `MODELS`."""
    module = MODELS[name](num_classes, **settings)

    def init(key: jax.Array, inputs: jax.Array) -> tuple[Any, Any]:
        variables = module.init(key, inputs, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params: Any, statistics: Any, inputs: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": statistics}
        if not train:
            return cast(jax.Array, module.apply(variables, inputs, train=False)), statistics
        logits, changed = module.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return logits, changed.get("batch_stats", {})

    return Model(init, apply)


def num_params(params: Any) -> int:
    """P, the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def num_neurons(params: Any) -> int:
    """Σ_l N_l of *Flatness is a False Friend*, §3.2: output features of every kernel, the classes included.

    That is the count behind the paper's 13,416 for VGG-16: channels of convolutions, units of dense layers, outputs.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.shape[-1] for path, leaf in leaves if getattr(path[-1], "key", None) == "kernel")


def input_size(inputs: jax.Array) -> int:
    """d_x, the number of components of one example of `inputs` `[n, ...]`."""
    return math.prod(inputs.shape[1:])
