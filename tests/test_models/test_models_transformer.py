"""The transformer against plain NumPy, and what must hold of any such model.

In float64 too, the softmax of `jax.nn.dot_product_attention` is in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from hessflat import models
from hessflat.utils.errors import InputError

V, T = 11, 6
TOKENS = np.random.default_rng(0).integers(V, size=(3, T))
SMALL = {"layers": 2, "width": 8, "heads": 2, "mlp_ratio": 2}
KINDS = [{"positions": "rotary", "norm": "rms"}, {"positions": "learnt", "norm": "layer"}]


def made(**settings):
    """The model, and parameters drawn in NumPy, none of them zero or one."""
    model, rng = models.build("transformer", V, **SMALL, **settings), np.random.default_rng(1)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(TOKENS))
    return model, jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape), params)


def normed(x, params):
    if "bias" in params:
        x = x - x.mean(-1, keepdims=True)
    root = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x / root * params["scale"] + params.get("bias", 0)


def turned(x):
    """Rotary positions by complex numbers: the pair (j, j + D/2) at t is multiplied by exp(i t 10000^(-2j/D))."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    frequencies = 10_000.0 ** (-np.arange(half) / half)
    pairs = pairs * np.exp(1j * np.arange(x.shape[1])[:, None] * frequencies)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def attended(x, params, rotary):
    heads = np.split(np.stack([x @ params[name]["kernel"] for name in ("query", "key", "value")]), 2, axis=-1)
    mixed = []
    for query, key, value in heads:
        if rotary:
            query, key = turned(query), turned(key)
        scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
        scores = np.where(np.tri(x.shape[1], dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed.append(weights / weights.sum(-1, keepdims=True) @ value)
    return np.concatenate(mixed, -1) @ params["out"]["kernel"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def reference(params, tokens, rotary):
    embedding = params["embedding"]["embedding"]
    x = embedding[tokens]
    if not rotary:
        x = x + params["position_embedding"]["embedding"][: tokens.shape[1]]
    for i in range(SMALL["layers"]):
        block = params[f"blocks_{i}"]
        x = x + attended(normed(x, block["norm_attention"]), block["attention"], rotary)
        inner = gelu(normed(x, block["norm_mlp"]) @ block["mlp"]["up"]["kernel"])
        x = x + inner @ block["mlp"]["down"]["kernel"]
    return normed(x, params["norm_final"]) @ embedding.T


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_logits_are_those_of_numpy_from_tokens_and_from_their_vectors(kind):
    with jax.enable_x64(True):
        model, params = made(**kind)
        logits, stats = quick_jit(model.apply, static_argnums=3)(params, {}, jnp.asarray(TOKENS), False)
        vectors = model.tokens.embed(params, jnp.asarray(TOKENS))
        again = model.tokens.hidden(params, vectors) @ model.tokens.readout(params).T
    expected = reference(params, TOKENS, kind["positions"] == "rotary")
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-7)
    assert stats == {}


def test_remat_changes_no_gradient_and_dropout_only_training():
    plain, params = made()
    remat, dropping = (made(**settings)[0] for settings in ({"remat": True}, {"dropout": 0.3}))

    def gradient(model):
        loss = lambda p: jnp.mean(model.apply(p, {}, TOKENS, True)[0] ** 2)  # noqa: E731
        return quick_jit(jax.grad(loss))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), gradient(plain), gradient(remat))
    keys = jax.random.split(jax.random.key(0), 2)
    trained = quick_jit(jax.vmap(lambda key: dropping.apply(params, {}, TOKENS, True, key)[0]))
    one, other = trained(keys)
    np.testing.assert_array_equal(one, trained(keys)[0])
    measured = quick_jit(lambda: dropping.apply(params, {}, TOKENS, False)[0])()
    assert min(np.abs(one - other).max(), np.abs(one - measured).max()) > 0.1
    without_key = quick_jit(lambda: dropping.apply(params, {}, TOKENS, True)[0])()
    np.testing.assert_array_equal(without_key, measured)


def test_what_cannot_be_is_one_line():
    with pytest.raises(InputError, match=r"heads must divide the width 8, with an even quotient for rotary .* got 3;"):
        models.build("transformer", V, **(SMALL | {"heads": 3}))
    too_short = models.build("transformer", V, **SMALL, positions="learnt", max_length=4)
    with pytest.raises(InputError, match=r"^transformer has positions for 4 tokens, got 6; raise"):
        jax.eval_shape(too_short.init, jax.random.key(0), TOKENS)
    with pytest.raises(InputError, match=r"needs tokens, integers \[n, T\], .* got shape \[2, 5\] of type float32"):
        jax.eval_shape(too_short.init, jax.random.key(0), jnp.ones((2, 5)))
