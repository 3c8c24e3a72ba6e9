"""λ_max at every 20th step of a training, by the tracker and by what a user would write, in turn in one process."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

import hessflat.curvature as cv
from benchmarks.contenders import Result
from benchmarks.contenders.ours import Ours
from benchmarks.in_jax import hessian_product
from benchmarks.problems import Arrays, Problem
from benchmarks.workloads import Workload
from hessflat.utils import compat

EVERY, BATCH = 20, 128
LEARNING_RATE, MOMENTUM = 0.05, 0.9
RTOL = 0.01  # of what is written by hand
_MOST_PRODUCTS, _LOBPCG_STEPS = 50, 10
_SEEN = 1e-4  # how far apart the two products may be

Measure = Callable[[Any, int], tuple[float, float]]  # (params, step) -> λ_max and the number of products


class Tracking(Ours):
    """`steps` measurements, after each 20 steps; every way is tried at the same parameters, the order moving on."""

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays, workload, steps, batch)
        self.arrays = arrays
        self.part = min(BATCH, len(arrays.x) // 4)

    def run(self) -> Result:
        self.check()
        rng, ways = np.random.default_rng(0), self.ways()
        seconds, busy = ({name: list[float]() for name in ("train", *ways)} for _ in range(2))
        errors: dict[str, list[float]] = {name: [] for name in ways}
        products: dict[str, list[float]] = {name: [] for name in ways}
        told: list[float] = []
        params, velocity = self.params, jax.tree.map(jnp.zeros_like, self.params)
        step = jax.jit(self.step)
        batches = [rng.integers(len(self.arrays.x), size=BATCH) for _ in range(EVERY)]
        for period in range(self.steps + 1):
            began = time.perf_counter(), time.process_time()
            for chosen in batches:
                batch = {"x": self.arrays.x[chosen], "y": self.arrays.y[chosen]}
                params, velocity = step(params, velocity, batch)
            jax.block_until_ready(params)
            seconds["train"].append(time.perf_counter() - began[0])
            busy["train"].append(time.process_time() - began[1])
            exact = cv.eigenpairs(self.at(params), jax.random.key(period), rtol=1e-4, show_progress=False).values[0]
            names = list(ways)
            for name in names[period % len(names) :] + names[: period % len(names)]:
                began = time.perf_counter(), time.process_time()
                value, count = ways[name](params, EVERY * period)
                seconds[name].append(time.perf_counter() - began[0])
                busy[name].append(time.process_time() - began[1])
                errors[name].append(abs(value / exact - 1))
                products[name].append(count)
            told.append(self.told[-1] / exact)
        parts = {"train": _middle(seconds["train"]), "train busy": _middle(busy["train"])}
        for name in ways:
            parts |= {
                f"{name} seconds": _middle(seconds[name]),
                f"{name} busy": _middle(busy[name]),
                f"{name} error": _middle(errors[name]),
                f"{name} largest error": float(np.max(errors[name][1:])),
                f"{name} products": _mean(products[name]),
            }
        return Result([], 0, parts | {"part": float(self.part), "told": _middle(told)})

    def step(self, params: Any, velocity: Any, batch: Any) -> tuple[Any, Any]:
        gradient = jax.grad(self.loss)(params, batch)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        return jax.tree.map(lambda p, v: p - LEARNING_RATE * v, params, velocity), velocity

    def at(self, params: Any) -> cv.Operator:
        return cv.hessian(self.loss, params, self.operator("hessian").terms[0].batches)

    def check(self) -> None:
        """The operator's product and that by hand are one.

        Raises:
            ValueError: they are not.
        """
        vector = jax.tree.map(lambda p: jax.random.normal(self.key, p.shape), self.params)
        ours, theirs = self.operator("hessian")(vector), self.product_by_hand(self.params, vector)
        off, size = (
            np.sqrt(sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(tree)))
            for tree in (jax.tree.map(jnp.subtract, ours, theirs), theirs)
        )
        if not off <= _SEEN * size:
            raise ValueError(f"products differ by {off / size:.1e} of their length")

    def product_by_hand(self, params: Any, vector: Any) -> Any:
        return hessian_product(self.loss, params, self.batch, self.statistics, vector)

    def ways(self) -> dict[str, Measure]:
        """Each with what it keeps from one measurement to the next."""
        op = self.operator("hessian")
        self.told: list[float] = []
        return {
            "tracker": self.tracked(cv.tracker(op, EVERY)),
            "tracker, part": self.tracked(cv.tracker(op, EVERY, examples=self.part)),
            "cv.sharpness, warm": self.called(),
            "power iteration": self.power_iteration(),
            "SciPy's eigsh": self.eigsh(),
            "JAX's LOBPCG": self.lobpcg(),
        }

    def tracked(self, tracker: cv.Tracker) -> Measure:
        kept = [tracker.init(self.params, self.key)]

        def measure(params: Any, step: int) -> tuple[float, float]:
            kept[0], metrics = tracker.update(kept[0], params, step)
            value = float(metrics["lambda_max"])
            if "lambda_max_bias" in metrics:
                self.told.append(float(metrics["lambda_max_bias"] + metrics["lambda_max_standard_error"]))
            return value, float(metrics["num_products"])

        return measure

    def called(self) -> Measure:
        """The library's own call, as it stands outside of programs."""
        kept: list[Any] = [None]

        def measure(params: Any, step: int) -> tuple[float, float]:
            pairs = cv.eigenpairs(self.at(params), self.key, rtol=RTOL, start=kept[0], show_progress=False)
            kept[0] = pairs.vectors
            return float(pairs.values[0]), pairs.num_products

        return measure

    def power_iteration(self) -> Measure:
        """One program: until the residual is a hundredth of the value, begun with the last vector."""

        def search(params: Any, vector: Any) -> tuple[Any, Any, Any]:
            flat, unravel = ravel_pytree(vector)

            def goes_on(carry: Any) -> Any:
                _, value, residual, count = carry
                return (count < _MOST_PRODUCTS) & ~(residual <= RTOL * jnp.abs(value))

            def step(carry: Any) -> Any:
                image = ravel_pytree(self.product_by_hand(params, unravel(carry[0])))[0]
                value = carry[0] @ image
                return image / jnp.linalg.norm(image), value, jnp.linalg.norm(image - value * carry[0]), carry[3] + 1

            start = flat / jnp.linalg.norm(flat), jnp.zeros(()), jnp.full((), jnp.inf), jnp.asarray(0)
            found, value, _, count = jax.lax.while_loop(goes_on, step, start)
            return value, unravel(found), count

        compiled, kept = jax.jit(search), [self.random()]

        def measure(params: Any, step: int) -> tuple[float, float]:
            value, kept[0], count = compiled(params, kept[0])
            return float(value), float(count)

        return measure

    def eigsh(self) -> Measure:
        flat, unravel = ravel_pytree(self.random())
        product = jax.jit(lambda params, v: ravel_pytree(self.product_by_hand(params, unravel(v)))[0])
        kept = [np.asarray(flat)]

        def measure(params: Any, step: int) -> tuple[float, float]:
            count = 0

            def counted(vector: np.ndarray) -> np.ndarray:
                nonlocal count
                count += 1
                return np.asarray(product(params, jnp.asarray(vector.reshape(-1), jnp.float32)))

            op = scipy.sparse.linalg.LinearOperator((flat.size, flat.size), matvec=counted, dtype=np.float32)
            values, found = scipy.sparse.linalg.eigsh(op, k=1, which="LA", tol=RTOL, v0=kept[0])
            kept[0] = found[:, 0]
            return float(values[0]), count

        return measure

    def lobpcg(self) -> Measure:
        flat, unravel = ravel_pytree(self.random())

        def search(params: Any, start: Any) -> Any:
            product = lambda v: ravel_pytree(self.product_by_hand(params, unravel(v)))[0]  # noqa: E731
            return compat.lobpcg(jax.vmap(product, 1, 1), start, _LOBPCG_STEPS, RTOL)

        compiled, kept = jax.jit(search), [flat[:, None]]

        def measure(params: Any, step: int) -> tuple[float, float]:
            values, kept[0], count = compiled(params, kept[0])
            return float(values[0]), 3 * float(count)  # each step multiplies three vectors

        return measure

    def random(self) -> Any:
        return jax.tree.map(lambda p: jax.random.normal(self.key, p.shape), self.params)


def _middle(values: list[float]) -> float:
    """The median after the first, which compiles."""
    return float(np.median(values[1:] or values))


def _mean(values: list[float]) -> float:
    return float(np.mean(values[1:] or values))
