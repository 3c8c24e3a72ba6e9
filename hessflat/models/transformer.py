"""A decoder-only transformer that predicts the next token: 51,488 parameters with its defaults and 64 tokens.

The form of GPT-2 (Radford et al. 2019), pre-norm and tied embeddings, or with rotary positions (Su et al. 2021) and RMS
norm (Zhang and Sennrich 2019) that of later models. Weights that follow a residual branch start smaller by 1/√(2
layers), as in GPT-2. What dropout draws from is a key that training gives; measurements give none, and have no dropout.
"""

from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn

from hessflat.config import anything, at_least, below, one_of, positive
from hessflat.utils.errors import InputError

NORMS: Mapping[str, type[nn.Module]] = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
POSITIONS = ("rotary", "learnt")
_ROTARY_BASE = 10_000.0


class Attention(nn.Module):
    """Causal self-attention of [n, T, d]: token t sees tokens up to t."""

    width: int
    heads: int
    rotary: bool
    std_out: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def projected(name: str) -> jax.Array:
            init = nn.initializers.lecun_normal()
            flat = nn.Dense(self.width, use_bias=False, kernel_init=init, name=name)(x)
            return flat.reshape(*flat.shape[:-1], self.heads, -1)

        query, key, value = (projected(name) for name in ("query", "key", "value"))
        if self.rotary:
            query, key = rotated(query), rotated(key)
        # Kernels that fuse it have no second derivative.
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="xla")
        init = nn.initializers.normal(self.std_out)
        return nn.Dense(self.width, use_bias=False, kernel_init=init, name="out")(mixed.reshape(x.shape))


class MLP(nn.Module):
    """W_down GELU(W_up x) on [n, T, d]."""

    hidden: int
    std_out: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.lecun_normal()
        inner = nn.Dense(self.hidden, use_bias=False, kernel_init=init, name="up")(x)
        down_init = nn.initializers.normal(self.std_out)
        return nn.Dense(x.shape[-1], use_bias=False, kernel_init=down_init, name="down")(nn.gelu(inner))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), on [n, T, d]."""

    width: int
    heads: int
    hidden: int
    norm: str
    rotary: bool
    dropout: float
    num_layers: int

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        dropped = nn.Dropout(self.dropout, deterministic=deterministic)
        scale = (2 * self.num_layers) ** -0.5
        attention = Attention(self.width, self.heads, self.rotary, scale * self.width**-0.5, name="attention")
        x = x + dropped(attention(normalised(self.norm, "norm_attention")(x)))
        mlp = MLP(self.hidden, scale * self.hidden**-0.5, name="mlp")
        return x + dropped(mlp(normalised(self.norm, "norm_mlp")(x)))


class Transformer(nn.Module):
    """Tokens [n, T], or what stands for them [n, T, d], to logits [n, T, V]: those at t are of the token after t."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    hidden: int
    norm: str
    positions: str
    max_length: int
    embedding_std: float
    dropout: float
    remat: bool

    def setup(self) -> None:
        init = nn.initializers.normal(self.embedding_std)
        self.embedding = nn.Embed(self.vocabulary, self.width, embedding_init=init)
        if self.positions == "learnt":
            self.position_embedding = nn.Embed(self.max_length, self.width, embedding_init=init)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        rotary = self.positions == "rotary"
        self.blocks = [
            block(self.width, self.heads, self.hidden, self.norm, rotary, self.dropout, self.layers)
            for _ in range(self.layers)
        ]
        self.dropped = nn.Dropout(self.dropout)
        self.norm_final = normalised(self.norm)

    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        return self.embedding.attend(self.hidden_states(inputs, train))

    def hidden_states(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """[n, T, d], whose products with the rows of the embedding are the logits."""
        deterministic = not (train and self.has_rng("dropout"))
        x = self.embed(inputs)
        if self.positions == "learnt":
            length = x.shape[1]
            if length > self.max_length:
                raise InputError(
                    f"transformer has positions for {self.max_length} tokens, got {length}; raise "
                    "model.transformer.max_length, or use model.transformer.positions=rotary"
                )
            x = x + self.position_embedding(jnp.arange(length))[None]
        x = self.dropped(x, deterministic=deterministic)
        for block in self.blocks:
            x = block(x, deterministic)
        return self.norm_final(x)

    def embed(self, inputs: jax.Array) -> jax.Array:
        """The vector [n, T, d] of each token; vectors stay what they are."""
        if inputs.ndim == 2 and jnp.issubdtype(inputs.dtype, jnp.integer):
            return self.embedding(inputs)
        if inputs.ndim == 3 and inputs.shape[-1] == self.width and jnp.issubdtype(inputs.dtype, jnp.floating):
            return inputs
        raise InputError(
            f"transformer needs tokens, integers [n, T], or their vectors [n, T, {self.width}], got shape "
            f"{list(inputs.shape)} of type {inputs.dtype}; use data of tokens, such as data.name=grammar"
        )

    def readout(self) -> jax.Array:
        """[V, d], the embedding, which is tied."""
        return self.embedding.embedding


def normalised(norm: str, name: str | None = None) -> nn.Module:
    """A norm over the last axis with a scale; of the variance in two passes, since E[x²] - E[x]² cancels."""
    return NORMS[norm](epsilon=1e-5, use_fast_variance=False, name=name)  # type: ignore[call-arg]


def rotated(x: jax.Array) -> jax.Array:
    """[n, T, heads, D], pairs of components turned by angles in proportion to t: Su et al. 2021, eq. 34.

    A pair is (j, j + D/2); the product of two vectors depends on their positions by the difference alone.
    """
    half = x.shape[-1] // 2
    frequencies = _ROTARY_BASE ** (-jnp.arange(half, dtype=x.dtype) / half)
    angles = jnp.outer(jnp.arange(x.shape[1], dtype=x.dtype), frequencies)[None, :, None]
    cosines, sines = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosines - second * sines, first * sines + second * cosines], axis=-1)


def transformer(
    vocabulary: int,
    *,
    layers: Annotated[int, at_least(1), "blocks of attention and MLP"] = 4,
    width: Annotated[int, at_least(1), "d, components of the vector of a token"] = 32,
    heads: Annotated[int, at_least(1), "heads of attention; they divide the width"] = 4,
    mlp_ratio: Annotated[int, at_least(1), "hidden units of an MLP over the width"] = 4,
    norm: Annotated[
        str, one_of(NORMS), "normalisation; rms: by the root of the mean square; layer: by mean and variance"
    ] = "rms",
    positions: Annotated[str, one_of(POSITIONS), "how positions of tokens are encoded"] = "rotary",
    max_length: Annotated[int, at_least(1), "largest number of tokens for learnt positions"] = 256,
    embedding_std: Annotated[float, positive, "standard deviation of the initial embeddings"] = 0.02,
    dropout: Annotated[float, below(0, 1), "share of activations left out in training"] = 0.0,
    remat: Annotated[
        bool, anything, "whether backward passes recompute the activations of a block, to save memory"
    ] = False,
) -> nn.Module:
    """A language model with tied embeddings over `vocabulary` tokens."""
    if width % heads or (positions == "rotary" and (width // heads) % 2):
        raise InputError(
            f"model.transformer.heads must divide the width {width}, with an even quotient for rotary positions, got "
            f"{heads}; change one of them"
        )
    hidden = mlp_ratio * width
    return Transformer(
        vocabulary, layers, width, heads, hidden, norm, positions, max_length, embedding_std, dropout, remat
    )
