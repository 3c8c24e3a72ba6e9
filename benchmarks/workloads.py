"""What is measured. A workload is one matrix of one problem and what is asked of it."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.problems import SCALES, Problem

Task = Literal[
    "lanczos",
    "exact",
    "largest",
    "blocks",
    "products",
    "basis",
    "block_cost",
    "device",
    "tracking",
    "first_calls",
    "small_calls",
]


@dataclass(frozen=True)
class Workload:
    """One row of contenders."""

    id: str
    title: str
    problem: str
    task: Task
    matrix: Literal["hessian", "gauss_newton"] = "hessian"
    steps: int = 0
    most_repeats: int = 100  # with none, the first call says it all
    cost: float = 1.0  # of one call beside those of other workloads, for the time left
    values_tolerance: float = 1e-3  # how far eigenvalues may be apart


RTOL = 1e-3

_ALL = [
    Workload("W1", "Hessian of an MLP 784-100-10, 10,000 examples, 100 Lanczos steps", "dense", "lanczos", steps=100),
    Workload(
        "W2",
        "Gauss-Newton matrix of an MLP 784-100-10, 10,000 examples, 100 Lanczos steps",
        "dense",
        "lanczos",
        "gauss_newton",
        steps=100,
    ),
    Workload(
        "W3",
        "Hessian of a VGG-like network of 0.5M parameters, 1,000 images of 32 × 32 × 3, 20 Lanczos steps",
        "conv",
        "lanczos",
        steps=20,
        most_repeats=3,
        cost=4,
    ),
    Workload(
        "W4",
        "Hessian of ResNet-18 (11M parameters), batch norm in eval mode, 128 images, 10 Lanczos steps",
        "residual",
        "lanczos",
        steps=10,
        most_repeats=3,
        cost=10,
        values_tolerance=0.05,  # ten steps from starts that libraries draw themselves do not converge
    ),
    Workload("W5", "Every eigenvalue of the Hessian of an MLP 100-30-30-10, 1,000 examples", "small", "exact"),
    Workload("W6a", "λ_max of W1 to a relative 1e-3", "dense", "largest", cost=0.3),
    Workload("W6b", "λ_max of W3 to a relative 1e-3", "conv", "largest", most_repeats=3, cost=4),
    Workload(
        "W7a",
        "Hessian of a transformer of 0.2M parameters, 256 sequences of 64 tokens with masks, 20 Lanczos steps",
        "language",
        "lanczos",
        steps=20,
        most_repeats=2,
        cost=6,
        values_tolerance=0.05,  # twenty steps from starts that libraries draw themselves may not converge
    ),
    Workload(
        "W7b",
        "Gauss-Newton matrix of the same transformer, 20 Lanczos steps",
        "language",
        "lanczos",
        "gauss_newton",
        steps=20,
        most_repeats=2,
        cost=6,
        values_tolerance=0.05,
    ),
    Workload(
        "W8a",
        "λ_max at every 20th step in batches of 128, an MLP 64-32-32-10, 500 examples",
        "digits",
        "tracking",
        steps=40,
        most_repeats=0,
        cost=1,
    ),
    Workload(
        "W8b",
        "λ_max at every 20th step in batches of 128, a transformer of 7 thousand parameters, 256 sequences of 16",
        "sentences",
        "tracking",
        steps=40,
        most_repeats=0,
        cost=2,
    ),
    Workload(
        "W9",
        "Every layer's block of the Hessian of an MLP 784-100-100-100-10, 5,000 examples, 50 Lanczos steps each",
        "deep",
        "blocks",
        steps=50,
    ),
    Workload("products1", "Products over gradients, the network of W1", "dense", "products", cost=0.3),
    Workload("products9", "Products over gradients, the network of W9", "deep", "products", cost=0.2),
    Workload("products3", "Products over gradients, the network of W3", "conv", "products", cost=0.2),
    Workload("products4", "Products over gradients, the network of W4", "residual", "products", most_repeats=5, cost=1),
    Workload(
        "block_cost",
        "Every layer's block beside the whole matrix, 100 Lanczos steps at most, the network of W9",
        "deep",
        "block_cost",
        steps=100,
    ),
    Workload(
        "basis",
        "Re-orthogonalisation: 100 Lanczos steps, MLP of a million parameters, 10,000 examples",
        "million",
        "basis",
        steps=100,
        most_repeats=2,
        cost=1.6,
    ),
    Workload(
        "first_calls1", "MLP 784-100-10, 100 Lanczos steps", "dense", "first_calls", steps=100, most_repeats=0, cost=1
    ),
    Workload(
        "first_calls7",
        "transformer of 0.2M parameters, 20 Lanczos steps",
        "language",
        "first_calls",
        steps=20,
        most_repeats=0,
        cost=4,
    ),
    Workload(
        "first_calls8",
        "transformer of 7 thousand parameters, 20 Lanczos steps",
        "sentences",
        "first_calls",
        steps=20,
        most_repeats=0,
        cost=2,
    ),
    Workload("small_calls", "MLP 64-32-32-10, 500 examples", "digits", "small_calls", most_repeats=0, cost=0.3),
]
_DEVICE = [
    Workload("device1", "The device with an MLP 784-100-10", "dense", "device", steps=60, most_repeats=0, cost=10),
    Workload(
        "device4", "The device with ResNet-18, 128 images", "residual", "device", steps=20, most_repeats=0, cost=20
    ),
    Workload(
        "device28", "The device with WideResNet-28x10, 128 images", "wide", "device", steps=10, most_repeats=0, cost=40
    ),
]
WORKLOADS = {workload.id: workload for workload in _ALL + _DEVICE}
# What a quarter of an hour has no room for: convolutions, and a second matrix of the transformer.
LONG = ["W3", "W4", "W6b", "W7b", "products3", "products4"]
# The longest is the last, and has what time is left.
DEFAULT = sorted((workload.id for workload in _ALL if workload.id not in LONG), key=lambda name: WORKLOADS[name].cost)
# What only an accelerator can say, and what it is for, comes first: time on one is short.
ON_DEVICE = ["device4", "device28", "W4", "W3", "W1", "basis", "W6b", "device1", "W2", "W5", "W6a"]

_SMOKE_STEPS = 8


def timetable_steps(workload: Workload, scale: str) -> int:
    """Lanczos steps."""
    return min(workload.steps, _SMOKE_STEPS) if scale == "smoke" else workload.steps


def problem_of(workload: Workload, scale: str) -> Problem:
    return SCALES[scale][workload.problem]


def chosen(names: list[str]) -> list[Workload]:
    """Workloads by the beginning of their ids, in the order of `names`: W6 is W6a and W6b."""
    return list(dict.fromkeys(w for name in names for w in WORKLOADS.values() if w.id.startswith(name)))
