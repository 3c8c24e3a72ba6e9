"""Whether contenders compute the same: each number against the median over contenders, before anything is timed."""

from typing import Any

import numpy as np

# Relative errors. Products along a vector are small by cancellation: they are judged by the length of the product.
TOLERANCES = {
    "loss": 1e-4,
    "gradient_norm": 1e-3,
    "gradient_along_v": 1e-3,
    "product_norm": 2e-3,
    "product_along_v": 2e-3,
}
_MEASURED_BY = {"gradient_along_v": "gradient_norm", "product_along_v": "product_norm"}


def disagreements(rows: list[dict[str, Any]], values_tolerance: float = 1e-3) -> dict[str, str]:
    """Contenders that are off, and by how much, in one line each. Rows hold "contender", "check" and "values".

    `values_tolerance` is how far, relative to the largest, eigenvalues may be from those of the others.
    With two contenders that differ neither is right. Rows with fewer examples are compared by "check" alone.
    """
    off: dict[str, str] = {}
    for quantity, tolerance in TOLERANCES.items():
        compared = [row for row in rows if row.get("check")]
        if compared:
            scale = abs(_median([row["check"][_MEASURED_BY.get(quantity, quantity)] for row in compared]))
            middle = _median([row["check"][quantity] for row in compared])
            for row in compared:
                error = _relative(row["check"][quantity] - middle, scale)
                if not error <= tolerance:
                    off.setdefault(row["contender"], f"{quantity.replace('_', ' ')} is {error:.1e} off the others'")
    whole = [row for row in rows if row.get("values") and not row.get("reduced")]
    if whole:
        middle = np.median([row["values"] for row in whole], axis=0)
        for row in whole:
            error = _relative(np.abs(np.subtract(row["values"], middle)).max(), np.abs(middle).max())
            if not error <= values_tolerance:
                off.setdefault(row["contender"], f"the eigenvalue is {error:.1e} off the others'")
    return off


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _relative(difference: float, scale: float) -> float:
    return float(abs(difference) / scale) if scale > 0 else float(difference != 0)
