"""Random calls of what compares the blocks of a matrix."""

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
    FLAG,
    KEYS,
    LOOPS,
    PROBES,
    Numbers,
    call_of,
    far,
    first,
    operator_argument,
    random_part,
    spectrum_wrong,
)
from benchmarks.fuzz.operators import MATRICES, draw_matrix
from benchmarks.fuzz.outcomes import REFUSE, Call
from benchmarks.fuzz.problems import Problem
from benchmarks.fuzz.spoiled import Argument, drawn


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


def _parts(one: Problem, numbers: Numbers) -> tuple[Any, dict[str, np.ndarray]]:
    """A way to take all parameters apart, and the places in the flat vector of each block by its name."""
    places, end = {}, 0
    for path, leaf in jax.tree.leaves_with_path(one.params):
        keys = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in path]
        places["/".join(keys)] = np.arange(end, end + np.size(leaf))
        end += np.size(leaf)
    tops = {name: name.split("/")[0] for name in places}
    way = numbers.choice(("leaves", "keys", "all", "map"))
    if way == "leaves":
        return _itself, places
    if way == "all":
        return {"all": "*"}, {"all": np.arange(end)}
    if way == "keys":
        return 1, {top: np.concatenate([places[n] for n in tops if tops[n] == top]) for top in tops.values()}
    head, *rest = places
    return {"head": head, "rest": _is_not(head)}, {
        "head": places[head],
        "rest": np.concatenate([places[name] for name in rest]),
    }


def _itself(path: str) -> str:
    return path


def _is_not(name: str) -> Callable[[str], bool]:
    return lambda path: path != name


def _has_blocks(one: Problem) -> bool:
    return one.name != "integers" and len(jax.tree.leaves(one.params)) > 1


def block_spectra(numbers: Numbers) -> Call:
    kind = numbers.choice(("hessian", "hessian", "gauss_newton"))
    one, variant = operators.choose_problem(numbers, _has_blocks)
    found = draw_matrix(numbers, kind, one, variant)
    by, places = _parts(one, numbers)
    table = {
        "op": operator_argument(found),
        "key": KEYS,
        "by": Argument((by,), "by"),
        "num_steps": Argument((12, 24, 100, np.int64(12), 1), "count"),
        "num_probes": Argument((1, 2, 3, np.int8(2)), "count"),
        "tolerance": Argument((0, 0.01, np.float32(0.1)), "number"),
        "probe": PROBES,
        "loop": LOOPS,
        "show_progress": FLAG,
        "on_steps": Argument((None, lambda steps: None), "callback or none"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        if values["by"] is not by:
            return far(sum(result.sizes.values()) <= found.size, True, 0, "sizes")
        if list(result.spectra) != list(places):
            return f"blocks {list(result.spectra)} for {list(places)}"
        wrong = []
        for name, spectrum in result.spectra.items():
            matrix = found.matrix[np.ix_(places[name], places[name])]
            shape = (int(values["num_probes"]), min(int(values["num_steps"]), len(matrix)))
            steps = spectrum.nodes.shape[1]
            if steps > shape[1] or len(spectrum.nodes) != shape[0] or (steps < shape[1] and values["tolerance"] == 0):
                wrong.append(f"{spectrum.nodes.shape} nodes for {shape}")
            parts = spectrum_wrong(spectrum, matrix, steps, shape[0], found.rounding)
            wrong += [part and f"{part}, in {name!r}" for part in parts]
        return first(*wrong)

    return call_of("block_spectra", numbers, table, judge, f"{found.said}, {_named(by)}", x64=one.x64)


def _named(by: Any) -> str:
    return "leaf by leaf" if callable(by) else f"by {by if by == 1 else list(by)}"


def block_diagonal_error(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(numbers, _has_blocks)
    kind = numbers.choice([kind for kind in MATRICES if operators.can_be(kind, one) and kind != "residual"])
    found = draw_matrix(numbers, kind, one, variant)
    by, places = _parts(one, numbers)
    outside = found.matrix.copy()
    for chosen in places.values():
        outside[np.ix_(chosen, chosen)] = 0
    table = {
        "op": operator_argument(found),
        "key": KEYS,
        "by": Argument((by,), "by"),
        "num_probes": Argument((10, 2, 40, np.int64(5), 1), "count"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        if values["by"] is not by:
            return "" if result.value >= 0 else f"value is {result.value}"
        return _ratio_wrong(result, outside, found.matrix, int(values["num_probes"]), found.rounding)

    return call_of("block_diagonal_error", numbers, table, judge, f"{found.said}, {_named(by)}", x64=one.x64)


def relative_distance(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(numbers, lambda one: one.name != "integers")
    kinds = [kind for kind in MATRICES if operators.can_be(kind, one)]
    a = draw_matrix(numbers, numbers.choice([kind for kind in kinds if kind != "residual"]), one, variant)
    b = draw_matrix(numbers, numbers.choice(kinds), one, variant)
    table = {
        "a": operator_argument(a),
        "b": operator_argument(b),
        "key": KEYS,
        "num_probes": Argument((10, 2, 40, np.int64(5), 1), "count"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        rounding, count = max(a.rounding, b.rounding), int(values["num_probes"])
        return _ratio_wrong(result, a.matrix - b.matrix, a.matrix, count, rounding)

    return call_of("relative_distance", numbers, table, judge, f"{a.said}, {b.said}", x64=one.x64)


def _ratio_wrong(found: Any, part: np.ndarray, whole: np.ndarray, count: int, rounding: float) -> str:
    """What is wrong with ‖part‖_F / ‖whole‖_F by `count` probes."""
    true = float(np.linalg.norm(part) / np.linalg.norm(whole))
    # ‖B z‖² = zᵀ B² z, above and below the line.
    above, below = (random_part(x.T @ x, count) / float(np.linalg.norm(x) ** 2 or 1) for x in (part, whole))
    least, most = max(1 - above, 0) / (1 + below), (1 + above) / max(1 - below, 1e-30)
    slack = 4 * math.sqrt(len(whole)) * rounding / float(np.linalg.norm(whole))
    if not true * math.sqrt(least) * (1 - slack) - slack <= found.value <= true * math.sqrt(most) * (1 + slack) + slack:
        return f"value is {found.value:.7g} for {true:.7g}"
    if count < 4:
        return ""
    factor = float(scipy.stats.t.ppf(1 - 1e-6, count - 1))
    return far(found.value, true, factor * found.standard_error + 0.05 * true + slack, "value by its own error")


KINDS: Mapping[str, tuple[Callable[[Numbers], Call], int]] = {
    "heterogeneity": (heterogeneity, 40),
    "block_spectra": (block_spectra, 50),
    "block_diagonal_error": (block_diagonal_error, 50),
    "relative_distance": (relative_distance, 50),
}
