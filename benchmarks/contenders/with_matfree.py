"""matfree's Lanczos around a product written by hand, in one compiled loop, as its documentation has it."""

import jax
import jax.numpy as jnp
import numpy as np
from matfree import decomp

from benchmarks.contenders import Result
from benchmarks.contenders.jax_by_hand import JaxByHand
from benchmarks.problems import Arrays, Problem
from benchmarks.workloads import Workload


class WithMatfree(JaxByHand):
    """The product gets parameters and data as arguments, so that they are not compiled into the program."""

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int) -> None:
        super().__init__(problem, arrays, workload, steps)
        tridiagonalise = decomp.tridiag_sym(steps, reortho="full")

        def matvec(vector, params, batch, statistics):
            return self._product(params, batch, statistics, vector)

        self._decompose = jax.jit(lambda start, *arguments: tridiagonalise(matvec, start, *arguments).J_small)

    def run(self) -> Result:
        start = jnp.asarray(self.start())
        matrix = self._decompose(start, self.params, self.batch, self.statistics)
        return Result([float(np.linalg.eigvalsh(np.asarray(matrix))[-1])], self.steps)

    @staticmethod
    def reduced(problem: Problem, workload: Workload) -> tuple[int, int] | None:
        """XLA's CPU compiler runs convolutions tens of times slower inside a loop."""
        if jax.default_backend() != "cpu":
            return None
        return {"W3": (100, 10), "W4": (8, 3)}.get(workload.id)
