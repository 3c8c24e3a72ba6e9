"""What re-orthogonalisation adds to a run, and what reading the basis that often costs at the memory's own speed."""

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.contenders import Result
from benchmarks.contenders.ours import Ours
from benchmarks.problems import Arrays, Problem
from benchmarks.timing import seconds_of, seconds_per_call
from benchmarks.workloads import Workload

_NUM_PRODUCTS = 5


def diagonal(size: int) -> cv.Operator:
    """An operator whose products cost nothing beside the basis."""
    return cv.from_matvec(jnp.multiply, jnp.zeros(size), jnp.linspace(-1.0, 2.0, size))


def seconds_beyond_recurrence(op: cv.Operator, steps: int) -> float:
    """A run with full re-orthogonalisation less one without."""
    key = jax.random.key(0)
    full = seconds_of(lambda: cv.lanczos(op, key, steps))
    return full - seconds_of(lambda: cv.lanczos(op, key, steps, reorthogonalise="none"))


def bytes_moved(size: int, steps: int) -> float:
    """Two Gram-Schmidt passes that read the filled rows twice each, and one row written, in float32."""
    return 4.0 * size * (4 * steps * (steps + 1) / 2 + steps)


def read_rate(size: int, steps: int) -> float:
    """Bytes per second at which an array as large as the basis can be read: the best of three ways."""
    rows, vector = jnp.ones((steps, size)), jnp.ones(size)
    on_host, weights = np.ones((steps, size), np.float32), np.ones(size, np.float32)
    times, total = jax.jit(jnp.matmul), jax.jit(jnp.sum)
    ways = [lambda: jax.block_until_ready(times(rows, vector)), lambda: jax.block_until_ready(total(rows))]
    if jax.default_backend() == "cpu":
        ways.append(lambda: on_host @ weights)
    for way in ways:
        way()
    return 4.0 * size * steps / min(seconds_per_call(way) for way in ways)


class Basis(Ours):
    """A run of Lanczos on the network, single products, and the recurrence on a diagonal matrix of the same size."""

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays, workload, steps, batch)
        self.diagonal = diagonal(problem.size)
        self.vector = jax.tree.map(lambda p: jax.random.normal(self.key, p.shape), self.params)

    def run(self) -> Result:
        op = cv.linearize(self.operator("hessian"))
        products = [seconds_of(lambda: jax.block_until_ready(op(self.vector))) for _ in range(1 + _NUM_PRODUCTS)]
        parts = {
            "run": seconds_of(lambda: cv.spectrum(self.operator("hessian"), self.key, num_steps=self.steps)),
            "product": float(np.median(products[1:])),
            "reorthogonalisation": seconds_beyond_recurrence(self.diagonal, self.steps),
            "read_rate": read_rate(self.problem.size, self.steps),
            "bytes": bytes_moved(self.problem.size, self.steps),
        }
        return Result([], self.steps, parts)
