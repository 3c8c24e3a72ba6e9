"""How many eigenvalues stand out: the counts of *Empirical Analysis of the Hessian*, appendix A, table 1.

Each takes all eigenvalues `[P]` and looks at the `SHOWN` largest that are positive, as the paper's figures do: further
down, gaps and ratios are those of noise.
"""

import numpy as np

SHOWN = 120


def largest(eigenvalues: np.ndarray, shown: int = SHOWN) -> np.ndarray:
    """The positive ones among the largest `shown`, in decreasing order."""
    ordered = np.sort(eigenvalues)[::-1][:shown]
    return ordered[ordered > 0]


def above_gap(eigenvalues: np.ndarray) -> int:
    """How many lie above the largest difference of neighbours."""
    return _before_largest_drop(largest(eigenvalues))


def above_ratio(eigenvalues: np.ndarray) -> int:
    """How many lie above the largest ratio of neighbours."""
    return _before_largest_drop(np.log(largest(eigenvalues)))


def above_elbow(eigenvalues: np.ndarray) -> tuple[int, float]:
    """How many lie above the elbow of the scree plot, and the cut-off there.

    The paper looks for the elbow by eye. Here it is the point of λ against rank that is farthest below the straight
    line from the largest to the smallest shown; the cut-off is the geometric mean of it and of its larger neighbour.
    """
    shown = largest(eigenvalues)
    if shown.size < 3:
        return shown.size, 0.0
    chord = np.linspace(shown[0], shown[-1], shown.size)
    elbow = max(1, int(np.argmax(chord - shown)))
    return elbow, float(np.sqrt(shown[elbow - 1] * shown[elbow]))


def _before_largest_drop(decreasing: np.ndarray) -> int:
    return decreasing.size if decreasing.size < 2 else int(np.argmin(np.diff(decreasing))) + 1
