"""Networks that need many chips, as plain functions, with the shapes and the places of their parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from hessflat.utils import hardware


class LargeModel(NamedTuple):
    """A loss, and shapes to take it at."""

    loss: Callable[[Any, Any], Array]
    params: Any
    batch: Any

    @property
    def size(self) -> int:
        """P."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def perceptron(width: int, pairs: int = 6, examples: int = 512, classes: int = 10) -> LargeModel:
    """The network h + tanh(h W₁) W₂ with W₁ [width, 4 width], `pairs` times, and a softmax: P = 8 pairs width² + …"""

    def loss(params: Any, batch: Any) -> Array:
        h = batch["x"]
        for first, second in params["pairs"]:
            h = h + jnp.tanh(h @ first) @ second
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(h @ params["out"]) * batch["y"], axis=-1))

    params = {
        "pairs": [(_shape(width, 4 * width), _shape(4 * width, width)) for _ in range(pairs)],
        "out": _shape(width, classes),
    }
    return LargeModel(loss, params, {"x": _shape(examples, width), "y": _shape(examples, classes)})


def transformer(
    layers: int = 24,
    width: int = 2048,
    heads: int = 16,
    vocabulary: int = 50_304,
    length: int = 1024,
    examples: int = 8,
    num_chips: int = 1,
) -> LargeModel:
    """A decoder as GPT-3 XL (Brown et al. 2020, table 2.1): 1.3 billion parameters by default.

    Layer norm before attention and before the perceptron, learnt positions, the embedding as the last layer's weights.
    Layers are one loop over stacked parameters, and their activations are computed anew in backward passes. On several
    chips activations stay spread by examples, and it is weights that are brought together.
    """

    def kept(x: Array) -> Array:
        return x if num_chips == 1 else jax.lax.with_sharding_constraint(x, _by_first(num_chips))

    def norm(x: Array, scale: Array, bias: Array) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale + bias

    def attention(x: Array, weights: Any) -> Array:
        q, k, v = (kept(jnp.einsum("bld,dhe->bhle", x, weights[name])) for name in ("q", "k", "v"))
        scores = jnp.einsum("bhle,bhme->bhlm", q, k) / (width // heads) ** 0.5
        causal = jnp.tril(jnp.ones((length, length), bool))
        shares = jax.nn.softmax(jnp.where(causal[None, None], scores, -1e9), axis=-1)
        return kept(jnp.einsum("bhle,hed->bld", kept(jnp.einsum("bhlm,bhme->bhle", shares, v)), weights["o"]))

    @jax.checkpoint
    def layer(x: Array, weights: Any) -> tuple[Array, None]:
        x = x + attention(norm(x, weights["scale0"][None, None], weights["bias0"][None, None]), weights)
        hidden = kept(norm(x, weights["scale1"][None, None], weights["bias1"][None, None]) @ weights["in"])
        return x + kept(jax.nn.gelu(hidden) @ weights["out"]), None

    def loss(params: Any, batch: Any) -> Array:
        x = kept(params["embedding"][batch["tokens"]] + params["positions"][None])
        x, _ = jax.lax.scan(layer, x, params["layers"])
        logits = kept(norm(x, params["scale"][None, None], params["bias"][None, None]) @ params["embedding"].T)
        chosen = jnp.take_along_axis(logits, batch["next"][..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)

    each = width // heads
    stacked = {name: _shape(layers, width, heads, each) for name in ("q", "k", "v")}
    stacked |= {"o": _shape(layers, heads, each, width)}
    stacked |= {"in": _shape(layers, width, 4 * width), "out": _shape(layers, 4 * width, width)}
    stacked |= {name: _shape(layers, width) for name in ("scale0", "bias0", "scale1", "bias1")}
    params = {
        "embedding": _shape(vocabulary, width),
        "positions": _shape(length, width),
        "layers": stacked,
        "scale": _shape(width),
        "bias": _shape(width),
    }
    tokens = jax.ShapeDtypeStruct((examples, length), jnp.int32)
    model = LargeModel(loss, params, {"tokens": tokens, "next": tokens})
    return model if num_chips == 1 else spread(model, num_chips)


def spread(model: LargeModel, num_chips: int) -> LargeModel:
    """The model with its examples over all chips, and each parameter along the longest of its axes that divides.

    So it is in fully sharded data parallelism (FSDP). The mesh has no devices: `cv.plan` puts those of its topology in.
    """
    mesh = _mesh(num_chips)
    places = hardware.shardings(model.params, mesh, True)
    params = jax.tree.map(lambda leaf, place: leaf.update(sharding=place), model.params, places)
    batch = jax.tree.map(lambda leaf: leaf.update(sharding=_by_first(num_chips)), model.batch)
    return model._replace(params=params, batch=batch)


def _mesh(num_chips: int) -> AbstractMesh:
    return AbstractMesh((num_chips,), (hardware.AXIS,))


def _by_first(num_chips: int) -> NamedSharding:
    """Spread along the first axis."""
    return NamedSharding(_mesh(num_chips), PartitionSpec(hardware.AXIS))


def _shape(*sides: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sides, jnp.float32)
