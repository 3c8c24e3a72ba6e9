"""What a test rests on, and the effect that it should find: from these `power` computes how often it does.

The effect is the one that the paper states. Where it states none, it is the least one that is worth finding, fixed here
for every rule:

- a ratio of 2, for what is compared on the scale of logarithms: sizes within it count as equal (`evidence.magnitude`),
  and most ratios that the papers state are above it;
- two percentage points, for accuracies and errors: most gains of test accuracy that G states are larger;
- a fifth of the value before, for other differences, and a fifth of the limit, for what is compared with a limit;
- a tenth, for differences of the masses of a spectrum, of which all is 1, and of slopes of probabilities;
- half of what is left, for shares whose limit is near 1 (`to_one`);
- Kendall's τ of 0.5, and 0.5 for a difference of two;
- none at all, for what is claimed to be the same: it is in the middle of the limits.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from hessflat.analysis.statistics import Estimate

FACTOR, POINT, FIFTH, TENTH, TAU = 2.0, 0.02, 0.2, 0.1, 0.5
LN_FACTOR = math.log(FACTOR)

Unit = Literal["log", "share", "plain"]
Origin = Literal["least", "paper"]


class MeanTest(NamedTuple):
    """Student's test of whether an expectation lies between two limits, of which one may be infinite.

    `aim` is the expectation that it should find so. `unit` says what the numbers are: logarithms of ratios, accuracies
    or other numbers. With a number of `examples` the estimate counts in the least error that so many have. `origin`
    says where the aim is from.
    """

    estimate: Estimate
    low: float
    high: float
    aim: float
    unit: Unit = "plain"
    examples: int = 0
    origin: Origin = "least"


class OrderTest(NamedTuple):
    """The exact test of `statistics.order_test`, of which the groups are; `by_seed` where each is of one seed alone.

    `ratio` is what the paper states of the last value over the first; without one the aim is a τ of `TAU`.
    """

    groups: Sequence[tuple[np.ndarray, np.ndarray]]
    seeds: int
    by_seed: bool
    ratio: float | None = None


class SignTest(NamedTuple):
    """The exact test that turns the signs of values, one a seed, or of one a group of runs (not `by_seed`)."""

    values: Sequence[float]
    seeds: int
    by_seed: bool


class ShareTest(NamedTuple):
    """The exact binomial test of whether the share of `trials`, of all seeds together, is above a limit.

    A trial asks whether something is here as in the paper, where all are: that is the aim.
    """

    trials: int
    seeds: int
    limit: float
    aim: float = 1.0


Design = MeanTest | OrderTest | SignTest | ShareTest


def to_one(limit: float) -> float:
    """The least distance from a limit of a share that cannot be above 1: half of what is left."""
    return (1 - limit) / 2
