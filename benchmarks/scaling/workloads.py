"""What is run on how many devices."""

from dataclasses import dataclass
from typing import NamedTuple

TASKS = ("training", "product", "lanczos")
TITLES = {
    "training": "a training step, hessflat's own, SGD on 256 examples",
    "product": "a Hessian product",
    "lanczos": "24 Lanczos steps with full re-orthogonalisation",
}
STRONG, WEAK = "strong", "weak"


class Layout(NamedTuple):
    """How many processes, and virtual devices of each."""

    processes: int
    each: int

    @property
    def devices(self) -> int:
        return self.processes * self.each

    @property
    def name(self) -> str:
        return f"{self.processes}x{self.each}"


LAYOUTS = {
    layout.name: layout
    for layout in [Layout(1, 1), Layout(1, 2), Layout(1, 4), Layout(1, 8), Layout(2, 1), Layout(2, 2), Layout(2, 4)]
}


@dataclass(frozen=True)
class Size:
    """A perceptron and its data."""

    inputs: int
    hidden: int
    examples: int  # in all on every number of devices (strong), or on eight of them (weak)
    batch: int  # of a training step, likewise
    lanczos_steps: int = 24


SIZES = {"full": Size(784, 256, 8_192, 256), "smoke": Size(16, 8, 64, 16, 4)}
CLASSES = 10
MOST_DEVICES = 8


def scaled(count: int, kind: str, devices: int) -> int:
    """Of examples: all of them, or as many for each device as eight devices have of all."""
    return count if kind == STRONG else count * devices // MOST_DEVICES
