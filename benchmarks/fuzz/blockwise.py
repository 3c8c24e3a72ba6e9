"""Random calls of what is measured by blocks of a matrix, and of distances between matrices."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import scipy.spatial.distance
import scipy.stats

import hessflat.curvature as cv
from benchmarks.fuzz import operators
from benchmarks.fuzz.judging import (
    KEYS,
    Numbers,
    call_of,
    estimate,
    far,
    first,
    operator_argument,
    random_part,
    spectrum_wrong,
)
from benchmarks.fuzz.operators import Drawn, draw_matrix
from benchmarks.fuzz.outcomes import REFUSE, Call
from benchmarks.fuzz.problems import Problem
from benchmarks.fuzz.spoiled import Argument, drawn


def places_by_key(one: Problem) -> dict[str, np.ndarray]:
    """The positions of the parameters below each of the first keys, in the flat vector."""
    found: dict[str, list[int]] = {}
    end = 0
    for path, leaf in jax.tree.leaves_with_path(one.params):
        key: Any = path[0] if path else ""
        found.setdefault(str(getattr(key, "key", getattr(key, "idx", ""))), []).extend(range(end, end + np.size(leaf)))
        end += np.size(leaf)
    return {name: np.array(where) for name, where in found.items()}


def _draw_with_blocks(numbers: Numbers) -> Drawn:
    one, variant = operators.choose_problem(numbers, lambda one: one.name != "integers" and len(places_by_key(one)) > 1)
    return draw_matrix(numbers, numbers.choice(("hessian", "gauss_newton")), one, variant)


def distances(numbers: Numbers) -> Call:
    """`block_diagonal_error` and `relative_distance`."""
    name, one = numbers.choice(("block_diagonal_error", "relative_distance")), _draw_with_blocks(numbers)
    table = {"key": KEYS, "num_probes": Argument((30, 100, np.int64(10)), "count")}
    if name == "block_diagonal_error":
        table |= {"op": operator_argument(one), "by": Argument((1,), "by")}
        other = np.zeros_like(one.matrix)
        for where in places_by_key(one.problem).values():
            other[np.ix_(where, where)] = one.matrix[np.ix_(where, where)]
    else:
        second = draw_matrix(numbers, numbers.choice(("gauss_newton", "hessian")), one.problem, one.variant)
        table |= {"a": operator_argument(one), "b": operator_argument(second)}
        other = second.matrix

    def judge(result: Any, values: dict[str, Any]) -> str:
        if values.get("by", 1) != 1:
            return ""
        count, rest = int(values["num_probes"]), one.matrix - other
        whole, apart = (float(np.sum(x**2)) for x in (one.matrix, rest))
        true = math.sqrt(apart / whole)
        reach = [random_part(x @ x, count) for x in (one.matrix, rest)]
        below = max(whole - reach[0], 1e-30)
        allowed = max(math.sqrt((apart + reach[1]) / below) - true, true)
        rounding = 4 * math.sqrt(one.size) * one.rounding / math.sqrt(whole)
        return estimate(result, true, allowed, rounding, count, "distance")

    return call_of(name, numbers, table, judge, one.said, x64=one.x64)


def block_spectra(numbers: Numbers) -> Call:
    one = _draw_with_blocks(numbers)
    table = {
        "op": operator_argument(one),
        "key": KEYS,
        "by": Argument((1,), "by"),
        "num_steps": Argument((50, 12, np.int64(50)), "count"),
        "num_probes": Argument((2, 4), "count"),
        "tolerance": Argument((0, 0, 1e-2), "number"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        if values["by"] != 1:
            return ""
        steps = int(values["num_steps"]) if values["tolerance"] == 0 else 1
        wrong = []
        for name, where in places_by_key(one.problem).items():
            block = one.matrix[np.ix_(where, where)]
            if name not in result.spectra:
                return f"no block {name!r} in {list(result.spectra)}"
            wrong += [far(result.sizes[name], len(where), 0, "size")]
            wrong += spectrum_wrong(result.spectra[name], block, steps, int(values["num_probes"]), one.rounding)
        return first(*wrong, far(len(result.spectra), len(places_by_key(one.problem)), 0, "blocks"))

    return call_of("block_spectra", numbers, table, judge, one.said, x64=one.x64)


def heterogeneity(numbers: Numbers) -> Call:
    """Of spectra that are drawn, beside SciPy's distances of densities on a grid of another kind."""
    draw, count = np.random.default_rng(numbers.randrange(10**6)), numbers.choice((1, 3))
    places = [numbers.uniform(-1, 3) + np.sort(draw.standard_normal((count, 4)), axis=1) for _ in range(3)]
    shares = [draw.dirichlet(np.ones(4), count) for _ in range(3)]
    spectra = {
        name: cv.Spectrum(
            x, p, np.zeros((count, 4)), np.full(count, 4), np.zeros(count), 30, 8, 1.0, "highest", "float32"
        )
        for name, x, p in zip("abc", places, shares, strict=True)
    }
    bad = {"b": cv.Spectrum(*(np.zeros((count + 1, 4)),) * 3, np.full(count + 1, 4), np.zeros(count + 1), 30, 8, 1.0,
                            "highest", "float32")}  # fmt: skip
    table = {
        "spectra": Argument((spectra,), "array"),
        "width": Argument((0.1, 0.3, np.float32(0.2)), "number or none"),
        "num_points": Argument((1024, np.int64(2000)), "count"),
    }
    values, must, words = drawn(numbers, table)
    if numbers.random() < 0.2:
        values["spectra"], must = numbers.choice((3, None, [], {}, {"a": spectra["a"]}, spectra | bad)), REFUSE

    def judge(result: Any) -> str:
        width = result.width
        if int(values["num_points"]) < 1000 or not 0.05 < width < 1:
            return ""
        low, high = min(x.min() for x in places) - 6 * width, max(x.max() for x in places) + 6 * width
        grid = np.linspace(low, high, 3001)
        densities = [
            sum(
                (p[k, i] * scipy.stats.norm.pdf(grid, x[k, i], width) for k in range(count) for i in range(4)), 0 * grid
            )
            for x, p in zip(places, shares, strict=True)
        ]
        right = [[scipy.spatial.distance.jensenshannon(a, b, 2) if a is not b else 0.0 for b in densities]
                 for a in densities]  # fmt: skip
        mean = np.array(right)[np.triu_indices(3, 1)].mean()
        return first(far(result.distances, right, 1e-3, "distance"), far(result.mean, mean, 1e-3, "mean"))

    return Call(f"heterogeneity({count} probes; {words})", lambda: cv.heterogeneity(**values), judge, must)


KINDS: Mapping[str, tuple[Callable[[Numbers], Call], int]] = {
    "distances": (distances, 60),
    "block_spectra": (block_spectra, 50),
    "heterogeneity": (heterogeneity, 40),
}
