"""Plain JAX, as one would write it in half a page: a jitted product and the rest in NumPy and SciPy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from benchmarks import reference
from benchmarks.contenders import Result, batch_sizes
from benchmarks.in_jax import JaxSetting, gauss_newton_product, hessian_product
from benchmarks.problems import Arrays, Problem
from benchmarks.workloads import RTOL, Workload


class JaxByHand(JaxSetting):
    """Vectors lie on the host, flat, in the order of `ravel_pytree`, which is that of sorted names."""

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays)
        self.workload, self.steps = workload, steps
        self.batches = [
            {name: array[first : first + batch] for name, array in self.batch.items()}
            for first in range(0, len(arrays.x), batch)
        ]
        counts = [float(jnp.sum(one["y"] >= 0)) for one in self.batches]
        self.shares = [count / sum(counts) for count in counts]
        _, unravel = ravel_pytree(self.params)

        def product(params, batch, statistics, vector):
            if workload.matrix == "hessian":
                result = hessian_product(self.loss, params, batch, statistics, unravel(vector))
            else:
                result = gauss_newton_product(self.predict, params, batch, statistics, unravel(vector))
            return ravel_pytree(result)[0]

        def dense(flat, batch, statistics):
            return jax.hessian(lambda p: self.loss(unravel(p), batch, statistics))(flat)

        self._product, self._dense = jax.jit(product), jax.jit(dense)
        self._of_layer = {layer: self._block_product(names) for layer, names in self.problem.layers.items()}
        self.num_products = 0

    def _block_product(self, names):
        """The product with the block of one layer, whose parameters alone are differentiated."""
        _, unravel = ravel_pytree({name: self.params[name] for name in names})

        def product(params, batch, vector):
            def loss(own, batch, _):
                return self.loss(params | own, batch, None)

            own = {name: params[name] for name in names}
            return ravel_pytree(hessian_product(loss, own, batch, None, unravel(vector)))[0]

        return jax.jit(product)

    @staticmethod
    def batch_sizes(examples: int) -> list[int]:
        return batch_sizes(examples)

    def prepared(self) -> Callable[[], object]:
        vector = self.start()
        return lambda: self.product(vector)

    @staticmethod
    def reduced(problem: Problem, workload: Workload) -> tuple[int, int] | None:
        """XLA's gradients of large convolutions take minutes a step on a CPU."""
        return (32, 3) if jax.default_backend() == "cpu" and workload.id == "W4" else None

    def product(self, vector: np.ndarray) -> np.ndarray:
        self.num_products += 1
        flat = jnp.asarray(vector, jnp.float32)
        parts = [
            share * self._product(self.params, batch, self.statistics, flat)
            for share, batch in zip(self.shares, self.batches, strict=True)
        ]
        return np.asarray(sum(parts))

    def start(self) -> np.ndarray:
        return np.random.default_rng(1).normal(size=self.problem.size).astype(np.float32)

    def run(self) -> Result:
        self.num_products = 0
        if self.workload.task == "exact":
            matrix = self._dense(ravel_pytree(self.params)[0], self.batch, self.statistics)
            return Result(np.linalg.eigvalsh(np.asarray(matrix)).tolist(), self.problem.size)
        if self.workload.task == "largest":
            return Result([self.largest()], self.num_products)
        if self.workload.task == "blocks":
            return Result([self.block(layer) for layer in self.problem.layers], self.num_products)
        basis = np.zeros((self.steps, self.problem.size), np.float32)
        values = reference.ritz_values(*reference.lanczos(self.product, basis, self.start()))
        return Result([float(values[-1])], self.num_products)

    def block(self, layer: str) -> float:
        """The largest Ritz value of a layer's block."""

        def product(vector: np.ndarray) -> np.ndarray:
            self.num_products += 1
            flat = jnp.asarray(vector, jnp.float32)
            parts = [
                share * self._of_layer[layer](self.params, batch, flat)
                for share, batch in zip(self.shares, self.batches, strict=True)
            ]
            return np.asarray(sum(parts))

        size = sum(self.params[name].size for name in self.problem.layers[layer])
        basis = np.zeros((min(self.steps, size), size), np.float32)
        return float(reference.ritz_values(*reference.lanczos(product, basis, self.start()[:size]))[-1])

    def largest(self) -> float:
        shape = (self.problem.size, self.problem.size)
        op = scipy.sparse.linalg.LinearOperator(shape, matvec=self.product, dtype=np.float32)
        values = scipy.sparse.linalg.eigsh(op, k=1, which="LA", tol=RTOL, v0=self.start(), return_eigenvectors=False)
        return float(values[0])
