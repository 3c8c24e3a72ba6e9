"""Statistics of losses on the straight line (1 − α) w₀ + α w₁ between two solutions, and around a switch of settings.

A line is a mapping of arrays, as `hessflat.measures` stores them: positions `alphas` `[n]`, which include 0 and 1, and
`<split>_loss` (nats) and `<split>_accuracy` (fractions) `[n]` at these positions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LineArrays = Mapping[str, np.ndarray]


def rises(line: LineArrays, split: str = "train") -> tuple[float, float]:
    """The mean increase of the loss over its value at w₀ for −1 ≤ α < 0, and over its value at w₁ for 1 < α ≤ 2."""
    alphas, losses = line["alphas"], line[f"{split}_loss"]
    before, after = (alphas < 0) & (alphas >= -1), (alphas > 1) & (alphas <= 2)
    first, second = (losses[alphas == end][0] for end in (0, 1))
    return float(losses[before].mean() - first), float(losses[after].mean() - second)


def asymmetry(line: LineArrays) -> float:
    """(a − b) / (|a| + |b|) in [−1, 1] for the two `rises` a, beyond w₀, and b, beyond w₁; independent of the scale of
    the loss.
    """
    first, second = rises(line)
    return (first - second) / (abs(first) + abs(second))


def error_barrier(line: LineArrays) -> float:
    """The maximum training error for 0 ≤ α ≤ 1 minus the mean of the errors at both ends (Frankle et al. 2020, §2)."""
    alphas, errors = line["alphas"], 1 - line["train_accuracy"]
    ends = (errors[alphas == 0][0] + errors[alphas == 1][0]) / 2
    return float(errors[(alphas >= 0) & (alphas <= 1)].max() - ends)


def extremes_around_switch(
    before: np.ndarray, after: np.ndarray, extreme: Callable[[np.ndarray], Any]
) -> tuple[float, float]:
    """`extreme` (max or min) of the last records before a switch and of equally many records after it, a tenth of
    those.

    Equal counts make the extremes comparable. `after[0]` is the record of the weights at the switch and is skipped.
    """
    count = max(1, (len(after) - 1) // 10)
    return float(extreme(before[-count:])), float(extreme(after[1 : 1 + count]))
