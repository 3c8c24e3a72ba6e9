"""The networks in plain JAX (NHWC, HWIO), their loss, and hand-written curvature products."""

import gc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import layouts
from benchmarks.networks import NETWORKS
from benchmarks.problems import Arrays, Problem

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
    """The mean over examples; `logits` [N, C], `labels` [N]."""
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)


def criterion(logits: Array, batch: dict[str, Array], statistics: Any = None) -> Array:
    return cross_entropy(logits, batch["y"])


def functions_of(problem: Problem) -> tuple[Callable, Callable]:
    """`predict(params, batch, statistics)` -> logits [N, C]; `loss`, of the same arguments -> their mean loss."""
    network, options = NETWORKS[problem.network], problem.options

    def predict(params: Any, batch: Any, statistics: Any = None) -> Array:
        return network(JaxLayers(params, statistics), batch["x"], **options)

    def loss(params: Any, batch: Any, statistics: Any = None) -> Array:
        return cross_entropy(predict(params, batch, statistics), batch["y"])

    return predict, loss


def hessian_product(loss: Callable, params: Any, batch: Any, statistics: Any, vector: Any) -> Any:
    """Forward over reverse."""
    return jax.jvp(lambda p: jax.grad(loss)(p, batch, statistics), (params,), (vector,))[1]


def gauss_newton_product(predict: Callable, params: Any, batch: Any, statistics: Any, vector: Any) -> Any:
    """Jᵀ (diag p − p pᵀ) J v / N: one linearisation of the network and its transpose."""
    logits, push = jax.linearize(lambda p: predict(p, batch, statistics), params)
    outwards = push(vector)
    p = jax.nn.softmax(logits)
    curved = p * (outwards - jnp.sum(p * outwards, axis=1, keepdims=True)) / logits.shape[0]
    return jax.linear_transpose(push, params)(curved)[0]


class JaxSetting:
    """What every JAX contender starts from: functions, and parameters and data on the device; float32 throughout."""

    framework = "JAX"

    def __init__(self, problem: Problem, arrays: Arrays) -> None:
        jax.config.update("jax_default_matmul_precision", "highest")
        self.problem = problem
        self.predict, self.loss = functions_of(problem)
        self.params = jax.device_put({name: arrays.params[name] for name in problem.shapes})
        self.statistics = jax.device_put(arrays.statistics) or None
        self.batch = jax.device_put({"x": arrays.x, "y": arrays.y})
        self._value_and_gradient = jax.jit(jax.value_and_grad(self.loss))
        self._gradient = jax.jit(jax.grad(self.loss))

    def gradient(self) -> None:
        """One full-data gradient, waited for."""
        jax.block_until_ready(self._gradient(self.params, self.batch, self.statistics))

    def loss_and_gradient(self) -> tuple[float, np.ndarray]:
        loss, gradient = self._value_and_gradient(self.params, self.batch, self.statistics)
        return float(loss), layouts.join(gradient)

    @staticmethod
    def reduced(problem: Problem, workload: Any) -> tuple[int, int] | None:
        return None

    def release(self) -> None:
        gc.collect()

    def device_kind(self) -> str:
        return jax.devices()[0].device_kind

    def peak_bytes(self) -> int | None:
        statistics = jax.devices()[0].memory_stats() or {}
        return statistics.get("peak_bytes_in_use")
