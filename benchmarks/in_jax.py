"""The networks in plain JAX (NHWC, HWIO), their loss, and hand-written curvature products."""

import gc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import language, layouts
from benchmarks.jax_layers import JaxLayers, cross_entropy
from benchmarks.networks import NETWORKS
from benchmarks.problems import Arrays, Problem


def criterion(logits: Array, batch: dict[str, Array], statistics: Any = None) -> Array:
    return cross_entropy(logits, batch["y"])


def functions_of(problem: Problem) -> tuple[Callable, Callable]:
    """`predict(params, batch, statistics)` -> logits [N, C]; `loss`, of the same arguments -> their mean loss."""
    network, options = NETWORKS.get(problem.network), problem.options

    # Each reads what it needs and no other network, as a loss that people write does.
    if network is None:

        def predict(params: Any, batch: Any, statistics: Any = None) -> Array:
            return language.logits(params, batch["x"], options)

    else:

        def predict(params: Any, batch: Any, statistics: Any = None) -> Array:
            return network(JaxLayers(params, statistics), batch["x"], **options)

    def loss(params: Any, batch: Any, statistics: Any = None) -> Array:
        return cross_entropy(predict(params, batch, statistics), batch["y"])

    return predict, loss


def hessian_product(loss: Callable, params: Any, batch: Any, statistics: Any, vector: Any) -> Any:
    """Forward over reverse."""
    return jax.jvp(lambda p: jax.grad(loss)(p, batch, statistics), (params,), (vector,))[1]


def gauss_newton_product(predict: Callable, params: Any, batch: Any, statistics: Any, vector: Any) -> Any:
    """Jᵀ (diag p − p pᵀ) J v over the examples or tokens that count: one linearisation and its transpose."""
    logits, push = jax.linearize(lambda p: predict(p, batch, statistics), params)
    outwards = push(vector)
    p = jax.nn.softmax(logits)
    counts = batch["y"] >= 0
    shares = (counts / jnp.sum(counts))[..., None]
    curved = shares * p * (outwards - jnp.sum(p * outwards, axis=-1, keepdims=True))
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
    def batch_sizes(examples: int) -> list[int]:
        """All examples at once: what is to be chosen, a contender chooses by itself."""
        return [examples]

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
