"""The layers of `benchmarks.networks` in plain JAX (NHWC, HWIO), and the loss."""

import jax
import jax.numpy as jnp
from jax import Array

EPSILON = 1e-5  # of batch norm, as in PyTorch


class JaxLayers:
    """Layers over a dictionary of parameters. Without `statistics`, batch norm notes and takes those of the batch."""

    def __init__(self, params: dict[str, Array], statistics: dict[str, Array] | None) -> None:
        self.params, self.statistics = params, statistics
        self.noted: dict[str, Array] = {}

    def dense(self, name: str, x: Array, features: int) -> Array:
        return x @ self.params[f"{name}_kernel"] + self.params[f"{name}_bias"]

    def conv(self, name: str, x: Array, features: int, stride: int = 1, size: int = 3, bias: bool = False) -> Array:
        around = (size // 2, size // 2)
        kernel = self.params[f"{name}_kernel"]
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), (around, around), dimension_numbers=numbers)
        return y + self.params[f"{name}_bias"] if bias else y

    def norm(self, name: str, x: Array) -> Array:
        if self.statistics is None:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.noted |= {f"{name}_mean": mean, f"{name}_var": var}
        else:
            mean, var = self.statistics[f"{name}_mean"], self.statistics[f"{name}_var"]
        scale = self.params[f"{name}_scale"] * jax.lax.rsqrt(var + EPSILON)
        return (x - mean) * scale + self.params[f"{name}_bias"]

    def relu(self, x: Array) -> Array:
        return jax.nn.relu(x)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def pool(self, x: Array) -> Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def mean(self, x: Array) -> Array:
        return x.mean((1, 2))

    def flatten(self, x: Array) -> Array:
        return x.reshape(x.shape[0], -1)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean over examples, or over the tokens whose label is not negative; `logits` [..., C], `labels` [...]."""
    counts = labels >= 0
    chosen = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.sum(jnp.where(counts, losses, 0)) / jnp.sum(counts)
