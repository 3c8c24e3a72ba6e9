"""hessflat by its public calls, with nothing chosen for it."""

from typing import Any

import jax
import numpy as np

import hessflat.curvature as cv
from benchmarks import layouts
from benchmarks.contenders import Result
from benchmarks.in_jax import JaxSetting, criterion
from benchmarks.problems import Arrays, Problem
from benchmarks.workloads import RTOL, Workload


class Ours(JaxSetting):
    """Operators are made anew in every run; what a run keeps for itself is within its time.

    As by default, all examples are one batch, whatever `batch` says.
    """

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays)
        self.workload, self.steps = workload, steps
        self.key = jax.random.key(0)

    def operator(self, matrix: str) -> cv.Operator:
        state: dict[str, Any] = {} if self.statistics is None else {"state": self.statistics}
        data = self.batch
        if self.problem.network == "transformer":
            data = cv.Batches(data, weights=(data["y"] >= 0).astype(float))
        if matrix == "hessian":
            return cv.hessian(self.loss, self.params, data, **state)
        return cv.gauss_newton(self.predict, criterion, self.params, data, **state)

    def run(self) -> Result:
        op = self.operator(self.workload.matrix)
        if self.workload.task == "exact":
            values = cv.eigvalsh(op)
            return Result(np.asarray(getattr(values, "values", values)).tolist(), op.size)
        if self.workload.task == "largest":
            pairs = cv.eigenpairs(op, self.key, k=1, rtol=RTOL)
            return Result([float(pairs.values[0])], pairs.num_products)
        if self.workload.task == "blocks":
            found = self.block_spectra(op, tolerance=0)
            return Result([top.value for top in found.sharpness.values()], found.num_products)
        spectrum = cv.spectrum(op, self.key, num_steps=self.steps)
        return Result([spectrum.largest.value], spectrum.num_products)

    def block_spectra(self, op: cv.Operator, **options: Any) -> cv.BlockSpectra:
        return cv.block_spectra(op, self.key, self.problem.layers, num_steps=self.steps, num_probes=1, **options)

    def product(self, vector: np.ndarray) -> np.ndarray:
        op = self.operator(self.workload.matrix)
        return layouts.join(op(layouts.split(vector, self.problem.shapes)))
