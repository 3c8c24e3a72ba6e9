"""A small transformer on sequences of tokens, some of which are padding: its network, data and loss in JAX.

Labels are the tokens that follow; those of padding are −1 and do not count.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat import models

PADDING = -1
_FOLLOWERS = 4  # tokens that may follow one


def shapes(options: dict[str, Any], length: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by name."""
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    params, _ = jax.eval_shape(_model(options).init, jax.random.key(0), tokens)
    return {name: leaf.shape for name, leaf in _named(params).items()}


def initial(options: dict[str, Any], length: int, seed: int) -> dict[str, np.ndarray]:
    params, _ = _model(options).init(jax.random.key(seed), jnp.zeros((1, length), jnp.int32))
    return {name: np.asarray(leaf) for name, leaf in _named(params).items()}


def logits(params: dict[str, Array], tokens: Array, options: dict[str, Any]) -> Array:
    """[n, T, V]."""
    nested: dict[str, Any] = {}
    for name, leaf in params.items():
        *path, last = name.split("/")
        inside = nested
        for key in path:
            inside = inside.setdefault(key, {})
        inside[last] = leaf
    result: Array = _model(options).apply(nested, {}, tokens, False)[0]
    return result


def examples(rng: np.random.Generator, vocabulary: int, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of a random chain [N, T], and what follows each token; each ends somewhere in its last half."""
    follows = rng.integers(vocabulary, size=(vocabulary, _FOLLOWERS))
    tokens = np.zeros((count, length + 1), np.int32)
    tokens[:, 0] = rng.integers(vocabulary, size=count)
    for place in range(length):
        # Earlier followers are likelier.
        choice = np.minimum(rng.geometric(0.6, size=count) - 1, _FOLLOWERS - 1)
        tokens[:, place + 1] = follows[tokens[:, place], choice]
    ends = rng.integers(length // 2, length + 1, size=count)
    labels = np.where(np.arange(length) < ends[:, None], tokens[:, 1:], PADDING)
    return tokens[:, :-1], labels.astype(np.int32)


def _model(options: dict[str, Any]) -> models.Model:
    settings = {name: value for name, value in options.items() if name != "vocabulary"}
    return models.build("transformer", options["vocabulary"], norm="layer", positions="learnt", **settings)


def _named(params: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
