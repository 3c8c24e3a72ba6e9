"""Random calls of what compares the blocks of a matrix."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.spatial.distance
import scipy.stats

import hessflat.curvature as cv
from benchmarks.fuzz.judging import (
    Numbers,
    far,
    first,
)
from benchmarks.fuzz.outcomes import REFUSE, Call
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


KINDS: Mapping[str, tuple[Callable[[Numbers], Call], int]] = {
    "heterogeneity": (heterogeneity, 40),
}
