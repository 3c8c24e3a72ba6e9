"""How a random call of the library is drawn, and what its result is compared with."""

import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import scipy.stats

import hessflat.curvature as cv
from benchmarks.fuzz.operators import Drawn
from benchmarks.fuzz.outcomes import Call
from benchmarks.fuzz.spoiled import Argument, Lazy, drawn, made

Numbers = random.Random
TAIL = 16.0  # e⁻¹⁶ is the chance that what is random is called wrong
LOOPS = Argument((None, None, "scan", "python"), "choice")
PROBES = Argument(("rademacher", "gaussian"), "choice")
KEYS = Argument(tuple(Lazy(partial(jax.random.key, seed)) for seed in range(20)), "key")
FLAG = Argument((False, False, True), "flag")


def call_of(
    name: str,
    numbers: Numbers,
    table: Mapping[str, Argument],
    judge: Callable[[Any, dict[str, Any]], str],
    said: str = "",
    *,
    x64: bool = False,
    spoil: float = 0.45,
) -> Call:
    """A call of the public function of this name."""
    values, must, words = drawn(numbers, table, spoil)
    full: dict[str, Any] = {}

    def make() -> Any:
        with jax.enable_x64(x64):
            full.update(made(values))
            return getattr(cv, name)(**full)

    return Call(f"{name}({said}{'; ' if said and words else ''}{words})", make, lambda r: judge(r, full), must)


def operator_argument(one: Drawn) -> Argument:
    return Argument((Lazy(one.make),), "operator")


def far(value: Any, truth: Any, allowed: Any, what: str = "value") -> str:
    """What is wrong, if `value` is further off than allowed."""
    value, truth = np.asarray(value, np.float64), np.asarray(truth, np.float64)
    if value.shape != truth.shape:
        return f"{what} has shape {value.shape} for {truth.shape}"
    error = np.abs(value - truth)
    if not (error <= allowed).all():
        worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error - allowed)), error.shape)
        limit = np.broadcast_to(allowed, error.shape)[worst]
        return f"{what} is {value[worst]:.7g} for {truth[worst]:.7g}, {error[worst]:.2g} off, {limit:.2g} allowed"
    return ""


def first(*found: str) -> str:
    """The first of what is wrong."""
    return next((one for one in found if one), "")


def random_part(matrix: np.ndarray, count: int) -> float:
    """How far the mean of zᵀ A z over `count` probes, relative to E zzᵀ = I, may be off Tr A (Hanson and Wright)."""
    frobenius, norm = float(np.linalg.norm(matrix)), float(np.linalg.norm(matrix, 2))
    return float(2 * frobenius * math.sqrt(TAIL / count) + 2 * norm * TAIL / count)


def function_of(matrix: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * function(values)) @ vectors.T)


def estimate(found: Any, true: float, allowed: float, rounding: float, count: int, what: str) -> str:
    """A mean over probes: within what chance allows, and within its stated error times Student's factor."""
    wrong = far(found.value, true, allowed + rounding, what)
    if wrong or count < 4 or not math.isfinite(found.standard_error):
        return wrong
    factor = float(scipy.stats.t.ppf(1 - 1e-6, count - 1))
    return far(found.value, true, factor * found.standard_error + 0.05 * allowed + rounding, f"{what} by its own error")


def near_some(values: Any, residuals: Any, eigenvalues: np.ndarray, rounding: float, what: str) -> str:
    """Some eigenvalue lies within three residuals of each value."""
    values, residuals = np.atleast_1d(values), np.atleast_1d(residuals)
    distance = np.abs(values[:, None] - eigenvalues[None]).min(axis=1)
    bad = ~(distance <= 3 * residuals + rounding)
    if bad.any():
        i = int(np.argmax(bad))
        return f"no eigenvalue near {what} {values[i]:.7g}: {distance[i]:.2g} off, {residuals[i]:.2g} stated"
    return ""


def dense_of(op: Any, one: Drawn) -> str:
    """What is wrong with the matrix of an operator."""
    with jax.enable_x64(one.x64):
        return far(op.to_dense(), one.matrix, one.rounding, "matrix")


def spectrum_wrong(found: Any, matrix: np.ndarray, steps: int, count: int, rounding: float) -> list[str]:
    """Of a `Spectrum`: moments that quadrature has exactly, ends, and where all is found, functions."""
    eigenvalues, size = np.linalg.eigvalsh(matrix), len(matrix)
    square = matrix @ matrix
    # What rounds to zero moves, as do the eigenvalues.
    slack = size * 8 * rounding
    wrong = [
        far(found.weights.sum(axis=1), np.ones(count), 1e-5, "weights"),
        estimate(found.trace, float(np.trace(matrix)), 2 * random_part(matrix, count), slack, count, "trace"),
        near_some(found.largest.value, found.largest.residual, eigenvalues, 6 * rounding, "largest"),
        near_some(found.smallest.value, found.smallest.residual, eigenvalues, 6 * rounding, "smallest"),
    ]
    if steps > 1:
        allowed = 2 * random_part(square, count)
        wrong.append(
            far(
                found.frobenius.value**2,
                np.sum(eigenvalues**2),
                allowed + 4 * slack * np.abs(eigenvalues).max() + 1e-30,
                "squared norm",
            )
        )
    if steps >= size and size > 1:
        damping = float(max(np.abs(eigenvalues).max(), 1e-3) - min(eigenvalues[0], 0))
        for name, function in (("log_determinant", lambda x: np.log(x + damping)),
                               ("effective_dimension", lambda x: x / (x + damping))):  # fmt: skip
            f = function_of(matrix, function)
            value = getattr(found, name)(damping).value
            wrong.append(far(value, np.trace(f), 2 * random_part(f, count) + 10 * slack / damping, name))
        at, width = float(eigenvalues[-1]), 0.05 * float(np.ptp(eigenvalues) or 1)
        bump = function_of(matrix, lambda x: np.exp(-0.5 * ((at - x) / width) ** 2) / (width * np.sqrt(2 * np.pi)))
        density = found.density(np.array([at]), width).mean[0]
        wrong.append(
            far(density, np.trace(bump) / size, 2 * random_part(bump, count) / size + slack / width**2, "density")
        )
    return wrong
