"""How much of an accelerator is used, what its faster precisions do to the numbers, and where things lie on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.contenders import Result
from benchmarks.own import placement
from benchmarks.own.basis import bytes_moved, diagonal, seconds_beyond_recurrence
from benchmarks.own.products import Products, operations_of, warm_seconds
from hessflat.utils import compat

# As `measure.precision` has them; on a GPU the first two are the same.
PRECISIONS = ("default", "high", "highest")
_PROBES = 8


class Device(Products):
    """One run holds everything; each part is called once before it is timed."""

    def run(self) -> Result:
        parts = self.planned()  # first, while the peak of memory is its own
        parts |= {f"matmul_{name}": _with_precision(name, self.matmul_rate) for name in PRECISIONS}
        parts["copy_rate"] = self.copy_rate()
        parts |= self.costs()
        parts |= self.basis()
        parts |= placement.storages(self.operator("hessian"), self.key, self.steps)
        parts |= self.sharded()
        # The largest network is there for its speed; float64 on it takes minutes.
        if self.problem.network != "wide_resnet":
            parts |= self.precisions()
        return Result([], 0, parts)

    def planned(self) -> dict[str, float]:
        """The plan for this chip beside a run on it; nothing on a machine that no plan is for."""
        topology = placement.topology_of(jax.devices()[0])
        return {} if topology is None else placement.planned(self.operator("hessian"), self.key, self.steps, topology)

    def sharded(self) -> dict[str, float]:
        """A product with the network spread over all devices of this machine, which may be one."""
        whole, count = (self.params, self.batch), jax.device_count()
        if len(self.batch["y"]) % count:
            return {}
        try:
            self.params, self.batch = placement.spread(self.params, False), placement.spread(self.batch, True)
            op, vector = cv.linearize(self.operator("hessian")), placement.spread(self.vector, False)
            seconds = warm_seconds(lambda: op(vector))
        finally:
            self.params, self.batch = whole
        return {"sharded": seconds, "sharded_devices": float(count)}

    def copy_rate(self) -> float:
        """Bytes per second, read and written ones both counted, of x + 1."""
        x = jnp.ones(10_000 if self.is_small else 2**28)
        add = jax.jit(lambda x: x + 1)
        return 8.0 * x.size / warm_seconds(lambda: add(x))

    def costs(self) -> dict[str, float]:
        """Seconds and operations of the gradient and the products, and of several products together."""
        arguments = (self.params, self.batch, self.statistics)
        parts = {
            "gradient": warm_seconds(lambda: self._gradient(*arguments)),
            "gradient_operations": operations_of(self._gradient, *arguments),
        }
        for matrix, op in self.kept.items():
            parts[matrix] = warm_seconds(partial(self.multiply, op))
            parts[f"{matrix}_operations"] = self.operations(op)
        op = self.kept["hessian"]
        vectors = jax.tree.map(lambda v: jnp.stack([v] * _PROBES), self.vector)
        together = jax.jit(jax.vmap(lambda op, v: op(v), in_axes=(None, 0)))
        parts["hessian_together"] = warm_seconds(lambda: together(op, vectors)) / _PROBES
        return parts

    def basis(self) -> dict[str, float]:
        op = diagonal(self.problem.size)
        seconds_beyond_recurrence(op, self.steps)
        seconds = np.median([seconds_beyond_recurrence(op, self.steps) for _ in range(3)])
        moved = bytes_moved(self.problem.size, self.steps)
        return {"reorthogonalisation": float(seconds), "bytes": moved, "steps": float(self.steps)}

    def precisions(self) -> dict[str, float]:
        """λ_max and the mass at zero with each precision, with its seconds; and in float64."""
        parts = {}
        for name in PRECISIONS:
            parts[f"seconds_{name}"] = _with_precision(name, lambda: warm_seconds(self.spectrum))
            parts |= _summary(_with_precision(name, self.spectrum), name)
        return parts | _summary(self.exact_spectrum(), "float64")

    def exact_spectrum(self) -> cv.Spectrum:
        """In float64, from the probe that float32 has."""
        with jax.enable_x64(True):
            return cv.spectrum(self.operator("hessian").astype(np.float64), self.key, num_steps=self.steps)

    def spectrum(self) -> cv.Spectrum:
        return cv.spectrum(self.operator("hessian"), self.key, num_steps=self.steps)


def _summary(spectrum: cv.Spectrum, name: str) -> dict[str, float]:
    mass = spectrum.zero_mass("hessian").weight.value
    return {f"largest_{name}": spectrum.largest.value, f"zero_mass_{name}": mass}


def _with_precision(name: str, call: Callable[[], Any]) -> Any:
    with _precision(name):
        return call()


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = compat.setting("jax_default_matmul_precision")
    jax.config.update("jax_default_matmul_precision", name)
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)
