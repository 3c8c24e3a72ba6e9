"""A product over one gradient, both of all examples, and its rate beside that of a product of matrices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.contenders import Result
from benchmarks.contenders.ours import Ours
from benchmarks.problems import Arrays, Problem
from benchmarks.timing import seconds_per_call
from benchmarks.workloads import Workload


class Products(Ours):
    """Operators are made once; a run is one sample of the gradient and of either product, taken in turn."""

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays, workload, steps, batch)
        self.kept = {matrix: cv.linearize(self.operator(matrix)) for matrix in ("hessian", "gauss_newton")}
        self.vector = jax.tree.map(lambda p: jax.random.normal(self.key, p.shape), self.params)

    def run(self) -> Result:
        parts = {"gradient": seconds_per_call(self.gradient), "matmul": self.matmul_rate()}
        for matrix, op in self.kept.items():
            parts[matrix] = seconds_per_call(partial(self.multiply, op))
            parts[f"{matrix}_operations"] = self.operations(op)
        return Result([], 0, parts)

    def operations(self, op: cv.Operator) -> float:
        return operations_of(jax.jit(lambda op, v: op(v)), op, self.vector)

    @property
    def is_small(self) -> bool:
        return self.problem.size < 10_000

    def matmul_rate(self) -> float:
        """Operations per second of one large product of matrices."""
        size = 64 if self.is_small else 8192
        if jax.default_backend() == "cpu":
            size = min(size, 2048)
        a = jnp.ones((size, size))
        times = jax.jit(jnp.matmul)
        return 2.0 * size**3 / warm_seconds(lambda: times(a, a))

    def multiply(self, op: cv.Operator) -> None:
        """One product, waited for."""
        jax.block_until_ready(op(self.vector))


def warm_seconds(call: Callable[[], Any]) -> float:
    """Of one call, waited for, after a first one."""
    wait = lambda: jax.block_until_ready(call())  # noqa: E731
    wait()
    return seconds_per_call(wait, at_least=0.2)


def operations_of(function: Any, *arguments: Any) -> float:
    """Floating-point operations as XLA counts them, before its own rewriting; nan where it does not say."""
    analysis = function.lower(*arguments).cost_analysis() or {}
    return float(analysis.get("flops", np.nan))
