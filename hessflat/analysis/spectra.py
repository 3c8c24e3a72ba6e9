"""Statistics of spectra: numbers of outliers, the mass at zero, and the distance between two spectra.

Eigenvalues are arrays `[P]` in any order unless a function says otherwise.
"""

from typing import NamedTuple

import numpy as np

from hessflat.analysis.results import Run

SHOWN = 120


def exact_eigenvalues(run: Run, operator: str = "hessian", step: int | None = None) -> np.ndarray:
    """[P] All eigenvalues of an operator, ascending, stored at a step of a run; the last measured step by default."""
    return run.spectrum(f"{operator}-exact", step)["eigenvalues"]


def largest_positive(eigenvalues: np.ndarray, shown: int = SHOWN) -> np.ndarray:
    """The positive eigenvalues among the `shown` largest, in decreasing order.

    The default is the number that the figures of *Empirical Analysis of the Hessian* show; gaps between smaller
    eigenvalues are noise.
    """
    ordered = np.sort(eigenvalues)[::-1][:shown]
    return ordered[ordered > 0]


def count_above_gap(eigenvalues: np.ndarray) -> int:
    """The number of eigenvalues above the largest gap between neighbours (*Empirical Analysis of the Hessian*, app. A,
    table 1).
    """
    return _count_before_largest_drop(largest_positive(eigenvalues))


def count_above_ratio(eigenvalues: np.ndarray) -> int:
    """The number of eigenvalues above the largest ratio of neighbours (*Empirical Analysis of the Hessian*, app. A,
    table 1).
    """
    return _count_before_largest_drop(np.log(largest_positive(eigenvalues)))


def count_above_elbow(eigenvalues: np.ndarray) -> tuple[int, float]:
    """The number of eigenvalues above the elbow of the scree plot, and the cut-off (*Empirical Analysis*, app. A, table
    1).

    The paper locates the elbow by eye. Here it is the point of λ against rank that is farthest below the straight line
    from the largest to the smallest eigenvalue shown. The cut-off is the geometric mean of the eigenvalue there and of
    its larger neighbour.
    """
    shown = largest_positive(eigenvalues)
    if shown.size < 3:
        return shown.size, 0.0
    chord = np.linspace(shown[0], shown[-1], shown.size)
    elbow = max(1, int(np.argmax(chord - shown)))
    return elbow, float(np.sqrt(shown[elbow - 1] * shown[elbow]))


def _count_before_largest_drop(decreasing: np.ndarray) -> int:
    return decreasing.size if decreasing.size < 2 else int(np.argmin(np.diff(decreasing))) + 1


def share_near_zero(eigenvalues: np.ndarray, within: float = 0.01) -> float:
    """The share of eigenvalues with |λ| below `within` times the largest |λ|."""
    return float(np.mean(np.abs(eigenvalues) < within * np.abs(eigenvalues).max()))


def share_below_zero(eigenvalues: np.ndarray, rounding: float = 1e-10) -> float:
    """The share of eigenvalues below −`rounding` · λ_max; rounding in float64 is about 1e-16 · λ_max."""
    return float(np.mean(eigenvalues < -rounding * eigenvalues.max()))


def largest_difference_at_the_top(eigenvalues: np.ndarray, others: np.ndarray, count: int) -> float:
    """The largest relative difference, rank by rank, among the `count` largest eigenvalues of two matrices."""
    first, second = (np.sort(side)[::-1][:count] for side in (eigenvalues, others))
    return float(np.max(np.abs(first - second) / np.abs(first)))


def largest_error_of_ends(largest: np.ndarray, smallest: np.ndarray, exact: np.ndarray) -> float:
    """The largest relative error, rank by rank, of the extremal eigenvalues of a spectrum.

    Unlike a residual, it shows that no eigenvalue was missed. Eigenvalues below 1e-5 λ_max in magnitude are compared on
    that scale, which is above the rounding of float32.

    Args:
        largest: the estimated largest eigenvalues `[k]`, descending.
        smallest: the estimated smallest eigenvalues `[k]`, ascending.
        exact: all eigenvalues `[P]`, ascending.
    """
    floor = 1e-5 * exact.max()
    ends = (largest, exact[::-1][: len(largest)]), (smallest, exact[: len(smallest)])
    return float(max(np.max(np.abs(end - true) / np.maximum(np.abs(true), floor)) for end, true in ends))


def ritz_mass_near_zero(nodes: np.ndarray, weights: np.ndarray, count: int) -> tuple[float, float, float]:
    """The mass and weighted mean of the `count` Ritz values nearest zero, and the share of the second in the nearest
    two.

    `nodes` and `weights` are those of one probe, `[m]`.
    """
    order = np.argsort(np.abs(nodes))
    chosen, two = order[:count], order[:2]
    mass = weights[chosen].sum()
    second = weights[two[1]] / weights[two].sum() if len(two) > 1 else 0.0
    return float(mass), float((weights[chosen] * nodes[chosen]).sum() / mass), float(second)


def ritz_share_near_zero(nodes: np.ndarray, weights: np.ndarray, within: float = 0.01) -> float:
    """The mass of the Ritz values with |λ| below `within` times the largest |λ|, an estimate of `share_near_zero`.

    `nodes` and `weights` are those of one probe, `[m]`.
    """
    return float(weights[np.abs(nodes) < within * np.abs(nodes).max()].sum())


class ZeroMassHistory(NamedTuple):
    """The Ritz values nearest zero at each measured step of a run, arrays `[steps]`; means over probes."""

    epochs: np.ndarray
    mass: np.ndarray
    value: np.ndarray  # their weighted mean
    second: np.ndarray  # share of the second nearest in the mass of the two nearest


def zero_mass_history(run: Run, operator: str, count: int) -> ZeroMassHistory:
    """The mass of the `count` Ritz values nearest zero over training, as in *Flatness is a False Friend*, app. D.

    Unlike `Spectrum.zero_mass` it does not add Ritz values within the noise floor.
    """
    rows = []
    for line in run.metrics:
        if run.has_spectrum(operator, line["step"]):
            spectrum = run.spectrum(operator, line["step"])
            probes = zip(spectrum["nodes"], spectrum["weights"], spectrum["num_valid"], strict=True)
            near = [ritz_mass_near_zero(nodes[:valid], weights[:valid], count) for nodes, weights, valid in probes]
            rows.append((float(line["epoch"]), *np.mean(near, axis=0)))
    return ZeroMassHistory(*np.array(rows).reshape(-1, 4).T)
