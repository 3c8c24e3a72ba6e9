"""Numbers of the straight line (1 − α) w₀ + α w₁ between two solutions, and of the switch from one to the next.

A line is the arrays of `hessflat.measures`: `alphas` `[n]` with 0 and 1 among them, and `<split>_loss`,
`<split>_accuracy` `[n]` there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LineArrays = Mapping[str, np.ndarray]


def rises(line: LineArrays, split: str = "train") -> tuple[float, float]:
    """By how much the loss is higher beyond w₀ (α < 0) than at w₀, and beyond w₁ (α > 1) than at w₁, on average.

    Means over the positions measured there, up to one distance of the two away.
    """
    alphas, losses = line["alphas"], line[f"{split}_loss"]
    before, after = (alphas < 0) & (alphas >= -1), (alphas > 1) & (alphas <= 2)
    first, second = (losses[alphas == end][0] for end in (0, 1))
    return float(losses[before].mean() - first), float(losses[after].mean() - second)


def asymmetry(line: LineArrays) -> float:
    """(rise beyond w₀ − rise beyond w₁) / (|…| + |…|), from −1 to 1: however steep the walls, lines count alike."""
    first, second = rises(line)
    return (first - second) / (abs(first) + abs(second))


def error_barrier(line: LineArrays) -> float:
    """The most by which the training error between the two exceeds the mean of theirs (Frankle et al. 2020, §2)."""
    alphas, errors = line["alphas"], 1 - line["train_accuracy"]
    ends = (errors[alphas == 0][0] + errors[alphas == 1][0]) / 2
    return float(errors[(alphas >= 0) & (alphas <= 1)].max() - ends)


def extremes_around_switch(
    before: np.ndarray, after: np.ndarray, extreme: Callable[[np.ndarray], Any]
) -> tuple[float, float]:
    """`extreme` (max or min) of the last records of one part, and of as many first ones of the next, a tenth of it.

    As many records on both sides: the extreme of many is further out. The next part's first record is of the weights of
    the last one before, and left out.
    """
    count = max(1, (len(after) - 1) // 10)
    return float(extreme(before[-count:])), float(extreme(after[1 : 1 + count]))
