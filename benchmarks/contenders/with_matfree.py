"""matfree's Lanczos around a product written by hand, in one compiled loop, as its documentation has it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from matfree import decomp

from benchmarks.contenders import Result
from benchmarks.contenders.jax_by_hand import JaxByHand
from benchmarks.problems import Arrays, Problem
from benchmarks.workloads import Workload

_FEW = 3


class WithMatfree(JaxByHand):
    """The product gets parameters and data as arguments, so that they are not compiled into the program."""

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays, workload, steps, batch)
        self.stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *self.batches), jnp.asarray(self.shares)

        def matvec(vector, params, stacked, statistics):
            def add(total, part):
                batch, share = part
                return total + share * self._product(params, batch, statistics, vector), None

            return jax.lax.scan(add, jnp.zeros_like(vector), stacked)[0]

        def decompose(steps):
            tridiagonalise = decomp.tridiag_sym(steps, reortho="full")
            return jax.jit(lambda start, *arguments: tridiagonalise(matvec, start, *arguments).J_small)

        self._decompose, self._few = decompose(steps), decompose(_FEW)

    def prepared(self) -> Callable[[], object]:
        """A few steps in place of a product, which is compiled into the loop."""
        start = jnp.asarray(self.start())
        return lambda: self._few(start, self.params, self.stacked, self.statistics).block_until_ready()

    def run(self) -> Result:
        start = jnp.asarray(self.start())
        matrix = self._decompose(start, self.params, self.stacked, self.statistics)
        return Result([float(np.linalg.eigvalsh(np.asarray(matrix))[-1])], self.steps)

    @staticmethod
    def reduced(problem: Problem, workload: Workload) -> tuple[int, int] | None:
        """XLA's CPU compiler runs convolutions tens of times slower inside a loop."""
        if jax.default_backend() != "cpu":
            return None
        return {"W3": (100, 10), "W4": (8, 3)}.get(workload.id)
