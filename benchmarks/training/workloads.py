"""What is trained, and who takes part. Contenders are classes in modules that their own processes import.

Contender(network, scale, problem, overrides)
    build()                the network with its weights, ready for its first step
    advance(steps)         that many steps, waited for
    check()                numbers to compare, from the problem's weights and its first examples
    parts()                what else a row shows; where there is a choice, the faster way is taken from here on
    loop                   "scan" where steps run without the host, "python" where each is started from Python
    device_kind()
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

BATCH_SIZES = {"full": 128, "smoke": 8}
NUM_CLASSES = 10
LEARNING_RATE, MOMENTUM = 0.01, 0.9
NUM_CHECKED = {"full": 32, "smoke": 8}  # examples of the batch that contenders are compared on
RUNS = {"full": 45, "smoke": 3}  # of a sweep

Task = Literal["train", "pipeline", "resume", "precision", "sweep"]


@dataclass(frozen=True)
class Network:
    """A builder of hessflat's by name with its settings, which `in_torch.NETWORKS` takes too."""

    title: str
    model: str
    settings: Mapping[str, Any]
    smoke: Mapping[str, Any]
    shape: tuple[int, ...]
    steps_per_epoch: int
    steps_on_cpu: int  # in one call; elsewhere it is an epoch

    @property
    def is_small(self) -> bool:
        return self.steps_on_cpu > 1

    def settings_at(self, scale: str) -> dict[str, Any]:
        return {**self.settings, **(self.smoke if scale == "smoke" else {})}

    def epoch(self, scale: str) -> int:
        return 2 if scale == "smoke" else self.steps_per_epoch

    def steps(self, scale: str, device: str) -> int:
        """In one timed call."""
        return min(self.steps_on_cpu, self.epoch(scale)) if device == "cpu" else self.epoch(scale)


_DIGIT, _IMAGE = (28, 28, 1), (32, 32, 3)

NETWORKS = {
    "softmax": Network("softmax regression 784-10", "softmax_regression", {}, {}, _DIGIT, 100, 100),
    "mlp": Network("MLP 784-100-10", "mlp", {"hidden": (100,)}, {"hidden": (8,)}, _DIGIT, 100, 100),
    "vgg": Network("VGG-11-BN", "vgg", {"depth": 11, "width": 64}, {"width": 4}, _IMAGE, 50, 1),
    "resnet": Network("ResNet-18", "resnet", {"depth": 18, "width": 64}, {"depth": 10, "width": 8}, _IMAGE, 50, 1),
    "wide": Network(
        "WideResNet-28×10", "wide_resnet", {"depth": 28, "widening": 10}, {"depth": 10, "widening": 1}, _IMAGE, 20, 1
    ),
}


@dataclass(frozen=True)
class Entry:
    """A contender by name; `overrides` are settings of hessflat's that it differs in."""

    name: str
    module: str
    class_name: str
    packages: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]


OURS, BY_HAND, PYTORCH = "hessflat", "JAX by hand", "PyTorch"
PLAIN, CHANGED = "batches as they are", "augmented and mixed"
RESUMED = "from a checkpoint"
TOGETHER, IN_TURN = "together", "in turn"

ENTRIES: dict[Task, list[Entry]] = {
    "train": [
        Entry(OURS, "in_jax", "Hessflat"),
        Entry(BY_HAND, "in_jax", "ByHand"),
        Entry(PYTORCH, "in_torch", "PyTorch", ("torch",)),
    ],
    "pipeline": [
        Entry(PLAIN, "in_jax", "Hessflat"),
        Entry(CHANGED, "in_jax", "Hessflat", overrides={"train.augment": 0.5, "train.mixup": 1.0}),
    ],
    "resume": [Entry(RESUMED, "in_jax", "Resumed")],
    "precision": [
        Entry(name, "in_jax", "InPrecision", overrides={"train.precision": name})
        for name in ("bfloat16", "tensorfloat32", "float32")
    ],
    "sweep": [Entry(TOGETHER, "in_jax", "RunsTogether"), Entry(IN_TURN, "in_jax", "RunsInTurn")],
}


@dataclass(frozen=True)
class Workload:
    """Contenders of one task on one network."""

    id: str
    network: str
    task: Task = "train"
    most_repeats: int = 100
    cost: float = 1.0  # of one call beside those of other workloads, for the time left

    @property
    def entries(self) -> list[Entry]:
        return ENTRIES[self.task]


_ALL = [
    Workload("softmax", "softmax"),
    Workload("mlp", "mlp"),
    Workload("vgg", "vgg", cost=1.5),
    Workload("resnet", "resnet", cost=5),
    Workload("pipeline", "resnet", "pipeline", cost=5),
    Workload("resume", "resnet", "resume", cost=0.2),
    Workload("wide", "wide", most_repeats=2, cost=40),
    Workload("sweep", "mlp", "sweep"),
    Workload("precision-resnet", "resnet", "precision", cost=5),
    Workload("precision-wide", "wide", "precision", most_repeats=2, cost=20),
]
WORKLOADS = {workload.id: workload for workload in _ALL}
DEFAULT = ["softmax", "mlp", "vgg", "resnet", "pipeline", "resume", "wide"]
ON_DEVICE = [*DEFAULT, "sweep", "precision-resnet", "precision-wide"]


def chosen(names: list[str]) -> list[Workload]:
    """Workloads by the beginning of their ids, in the order of `names`: precision is both of them."""
    return list(dict.fromkeys(w for name in names for w in _ALL if w.id.startswith(name)))


def entry_of(workload: Workload, name: str) -> Entry:
    return next(entry for entry in workload.entries if entry.name == name)
