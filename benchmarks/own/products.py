"""A product over one gradient, both of all examples."""

from functools import partial

import jax

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
        parts = {"gradient": seconds_per_call(self.gradient)}
        for matrix, op in self.kept.items():
            parts[matrix] = seconds_per_call(partial(self.multiply, op))
        return Result([], 0, parts)

    def multiply(self, op: cv.Operator) -> None:
        """One product, waited for."""
        jax.block_until_ready(op(self.vector))
