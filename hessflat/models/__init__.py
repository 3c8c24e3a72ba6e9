"""Networks as pure functions of their parameters. To add one: a file here and a line in `_MODULES`.

The file has a builder of its own name, which takes the number of classes and, keyword-only, its settings; it returns a
`flax.linen` module whose call is `module(inputs, train)`. This folder is the only one that knows flax.linen.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, cast

import jax
from flax import linen as nn

from hessflat.config import builder_settings, one_of, require, require_settings
from hessflat.models.layers import BatchNormLayer, Normalisation
from hessflat.models.layerwise import Layer, apply_by_layer
from hessflat.models.transformer import Transformer

__all__ = [
    "MODELS",
    "TOKEN_MODELS",
    "Layer",
    "Model",
    "TokenParts",
    "apply_by_layer",
    "batch_norm_layer",
    "build",
    "input_size",
    "num_neurons",
    "num_params",
]

# A module of this folder for each network, which has a builder of its own name.
_MODULES = (
    "softmax_regression",
    "mlp",
    "deep_linear",
    "cnn9",
    "two_convolutions",
    "alexnet",
    "vgg",
    "resnet",
    "preresnet",
    "wide_resnet",
    "coordinate_network",
    "transformer",
)
# Those whose inputs are tokens, integers [n, T].
TOKEN_MODELS = ("transformer",)
MODELS: Mapping[str, Callable[..., nn.Module]] = {
    name: getattr(import_module(f"{__name__}.{name}"), name) for name in _MODULES
}


class TokenParts(NamedTuple):
    """The ends of a model of tokens: logits [n, T, V] are `hidden(params, inputs) @ readout(params).T`."""

    embed: Callable[[Any, jax.Array], jax.Array]  # (params, tokens [n, T]) -> [n, T, d], which the model takes as well
    hidden: Callable[[Any, jax.Array], jax.Array]  # (params, inputs) -> [n, T, d], without dropout
    readout: Callable[[Any], jax.Array]  # params -> [V, d]


class Model(NamedTuple):
    """A network as two pure functions.

    `init(key, inputs) -> (params, batch_stats)`, `apply(params, batch_stats, inputs, train) -> (logits, batch_stats)`.
    `batch_stats` are the running averages of batch normalisation, an empty dict for models without it. With `train`
    set, batch normalisation uses (and is differentiated through) the statistics of the inputs it is given. A fifth
    argument of `apply` is a key for dropout, without which there is none.
    """

    init: Callable[[jax.Array, jax.Array], tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]
    tokens: TokenParts | None = None  # None for models of other inputs


def build(name: str, num_classes: int, **settings: Any) -> Model:
    """The model that `name` stands for in `MODELS`; a setting that breaks its rule is refused.

    The same object each time, so that what is compiled for one run serves all runs of the same network.
    """
    require("model", name, one_of(MODELS))
    require_settings(name, f"model.{name}", settings, builder_settings(MODELS[name]))
    return _built(name, num_classes, tuple(sorted(settings.items())))


@cache
def _built(name: str, num_classes: int, settings: tuple[tuple[str, Any], ...]) -> Model:
    return _as_model(MODELS[name](num_classes, **dict(settings)))


@cache
def batch_norm_layer(epsilon: float = 1e-5) -> Model:
    """Batch normalisation by itself, of inputs `[n, d]` or `[n, h, w, d]`; the same object each time."""
    return _as_model(BatchNormLayer(Normalisation(True, 0.9, epsilon)))


def _as_model(module: nn.Module) -> Model:
    def init(key: jax.Array, inputs: jax.Array) -> tuple[Any, Any]:
        variables = module.init(key, inputs, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(
        params: Any, batch_stats: Any, inputs: jax.Array, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        if not train:
            return cast(jax.Array, module.apply(variables, inputs, train=False)), batch_stats
        rngs = None if key is None else {"dropout": key}
        logits, changed = module.apply(variables, inputs, train=True, mutable=["batch_stats"], rngs=rngs)
        return logits, changed.get("batch_stats", {})

    return Model(init, apply, _token_parts(module) if isinstance(module, Transformer) else None)


def _token_parts(module: Transformer) -> TokenParts:
    def part(method: str) -> Callable[..., jax.Array]:
        return lambda params, *inputs: cast(jax.Array, module.apply({"params": params}, *inputs, method=method))

    return TokenParts(part("embed"), part("hidden_states"), part("readout"))


def num_params(params: Any) -> int:
    """P, the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def num_neurons(params: Any) -> int:
    """Σ_l N_l of *Flatness is a False Friend*, §3.2: output features of every kernel, the classes included.

    That is the count behind the paper's 13,416 for VGG-16: channels of convolutions, units of dense layers, outputs.
    The paper's number is that of the network for ImageNet, with dense layers of 4,096 and 1,000 classes; the one for
    CIFAR-10 has 5,258.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.shape[-1] for path, leaf in leaves if getattr(path[-1], "key", None) == "kernel")


def input_size(inputs: jax.Array) -> int:
    """d_x, the number of components of one example of `inputs` `[n, ...]`."""
    return math.prod(inputs.shape[1:])
