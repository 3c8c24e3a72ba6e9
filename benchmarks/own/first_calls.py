"""What first calls add to second ones, beside a Lanczos scan by hand; and what small calls add to their products."""

import gc
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

import hessflat
import hessflat.curvature as cv
from benchmarks.contenders import HAND, Result
from benchmarks.contenders.ours import Ours
from benchmarks.in_jax import functions_of, hessian_product
from benchmarks.problems import Arrays, Problem
from benchmarks.workloads import Workload

_EXAMPLES = 256  # of first calls: programs are those of any number, and runs take little beside compilation
_REPEATS = 15  # of small calls
_LOOP = 20  # products in a compiled loop

_events: list[str] = []


def _note(event: str, duration_secs: float, **more: str | int) -> None:
    _events.append(event)


class FirstCalls(Ours):
    """Each way has a loss of its own, so that nothing traced for one serves another; nothing compiled does either.

    The scan by hand is the first and the last of them, and its mean counts: what a process pays once, it pays before.
    """

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays.take(_EXAMPLES), workload, steps, batch)
        jax.monitoring.register_event_duration_secs_listener(_note)
        self.start = jax.device_put(np.random.default_rng(1).normal(size=problem.size).astype(np.float32))
        self.moved = jax.tree.map(lambda leaf: jax.device_put(1.01 * np.asarray(leaf)), self.params)

    def run(self) -> Result:
        jax.block_until_ready(jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y @ y, x))(jnp.ones((64, 64))))
        ways = {
            HAND: self.by_hand,
            "spectrum": lambda: self.measuring(lambda op: cv.spectrum(op, self.key, num_steps=self.steps)),
            "sharpness": lambda: self.measuring(lambda op: cv.sharpness(op, self.key)),
        }
        parts: dict[str, float] = {}
        for name, make in ways.items():
            parts |= {f"{name} {what}": value for what, value in self.calls(make()).items()}
        again = self.calls(ways[HAND]())
        parts |= {f"{HAND} {what}": (parts[f"{HAND} {what}"] + value) / 2 for what, value in again.items()}
        with tempfile.TemporaryDirectory(prefix="programs-") as folder:
            hessflat.compile_cache(folder)
            for name, make in ways.items():
                self.calls(make())
                parts[f"{name} cached"] = self.calls(make())["overhead"]
        return Result([], 0, parts)

    def calls(self, call: Callable[[Any], Any]) -> dict[str, float]:
        """A first call, a second one, and one at other parameters."""
        jax.clear_caches()
        gc.collect()
        counts: list[list[int]] = []
        seconds: list[float] = []
        busy: list[float] = []
        for params in (self.params, self.params, self.moved):
            _events.clear()
            began = _now()
            call(params)
            for samples, value in zip((seconds, busy), _since(began), strict=True):
                samples.append(value)
            counts.append([sum(name.endswith(what) for name in _events) for what in _COUNTED])
        return {
            "overhead": seconds[0] - seconds[1],
            "busy": busy[0] - busy[1],
            "second": seconds[1],
            "programs": counts[0][0],
            "traces": counts[0][1],
            "programs again": counts[2][0],
            "traces again": counts[2][1],
        }

    def measuring(self, measure: Callable[[cv.Operator], Any]) -> Callable[[Any], Any]:
        """A measurement at parameters; operators, which look at the loss, are made before."""
        self.predict, self.loss = functions_of(self.problem)
        operators = {id(params): self.at(params) for params in (self.params, self.moved)}
        return lambda params: measure(operators[id(params)])

    def at(self, params: Any) -> cv.Operator:
        kept, self.params = self.params, params
        op, self.params = self.operator("hessian"), kept
        return op

    def by_hand(self) -> Callable[[Any], Any]:
        """One program: the derivative of the gradient along a vector, and Lanczos with Gram-Schmidt twice."""
        _, loss = functions_of(self.problem)
        count = self.steps

        def lanczos(params: Any, batch: Any, start: Array) -> tuple[Array, Array]:
            _, unravel = ravel_pytree(params)

            def step(carry: Any, number: Array) -> Any:
                q, before, beta, basis = carry
                basis = jax.lax.dynamic_update_slice_in_dim(basis, q[None], number, 0)
                product = ravel_pytree(hessian_product(loss, params, batch, self.statistics, unravel(q)))[0]
                alpha = q @ product
                rest = product - alpha * q - beta * before
                for _ in range(2):
                    rest = rest - (basis @ rest) @ basis
                beta = jnp.linalg.norm(rest)
                return (rest / beta, q, beta, basis), (alpha, beta)

            q = start / jnp.linalg.norm(start)
            begin = q, jnp.zeros_like(q), jnp.zeros(()), jnp.zeros((count, q.size))
            alphas, betas = jax.lax.scan(step, begin, jnp.arange(count))[1]
            return alphas, betas

        compiled = jax.jit(lanczos)
        return lambda params: jax.device_get(compiled(params, self.batch, self.start))


class SmallCalls(Ours):
    """Second calls at ever new parameters, in turn with as many products in one compiled loop."""

    def run(self) -> Result:
        ways: dict[str, Callable[[cv.Operator], Any]] = {
            "sharpness": lambda op: cv.sharpness(op, self.key),
            "moments": lambda op: cv.moments(op, self.key),
            "trace": lambda op: cv.trace(op, self.key),
        }
        loop = jax.jit(_products)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ("product", *ways)}
        counts = dict[str, int]()
        for repeat in range(1 + _REPEATS):
            params = jax.tree.map(lambda leaf, n=repeat: leaf * (1 + n / 1000), self.params)
            op = cv.hessian(self.loss, params, self.batch)
            kept = cv.linearize(op)
            vector = jax.block_until_ready(jax.tree.map(jnp.ones_like, params))
            began = _now()
            jax.block_until_ready(loop(kept, vector))
            seconds["product"].append(_since(began, _LOOP))
            for name, measure in ways.items():
                began = _now()
                counts[name] = measure(op).num_products
                seconds[name].append(_since(began))
        parts = {f"{name} products": float(count) for name, count in counts.items()}
        for name, samples in seconds.items():
            parts[f"{name} seconds"], parts[f"{name} busy"] = np.median(samples[1:], axis=0).tolist()
        return Result([], 0, parts)


def _now() -> tuple[float, float]:
    """The time, and the processor time of this process."""
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float], calls: int = 1) -> tuple[float, float]:
    """Seconds and seconds of processor time of each of some calls."""
    seconds, busy = (now - before for now, before in zip(_now(), began, strict=True))
    return seconds / calls, busy / calls


def _products(op: cv.Operator, vector: Any) -> Any:
    def step(vector: Any, _: Any) -> Any:
        product = op(vector)
        largest = jnp.max(jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(product)]))
        return jax.tree.map(lambda leaf: leaf / largest, product), None

    return jax.lax.scan(step, vector, None, length=_LOOP)[0]


_COUNTED = ("/backend_compile_duration", "/jaxpr_trace_duration")
