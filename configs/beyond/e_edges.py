"""The edge of stability of gradient descent, momentum, Adam, SAM and SGD, each at two learning rates.

    make sweep CONFIG=e_edges:small

smoke: seconds, 5 runs. small: 500 of scikit-learn's digits and a perceptron 64-32-32-10 with tanh, 45 runs. medium:
5,000 images of CIFAR-10 and a perceptron 3072-32-32-10, 15 runs, after `make data DATASETS=cifar10`. paper: as medium
with hidden layers of 200, for four times as many steps.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small", "medium", "paper")
# Seeds 10 to 15 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": (20, 21, 22, 23, 24), "medium": (20, 21, 22), "paper": (20, 21, 22)}
BATCH = 16

# What is trained, and for how many steps, by the name that figures have for it. The squared error is a mean over ten
# outputs: with half their sum in its place, all rates but Adam's would be a fifth of these.
GD = {"optim.name": "sgd", "optim.sgd.momentum": 0.0}
METHODS: dict[str, list[Overrides]] = {
    "GD": [GD | {"optim.lr": rate, "train.steps": steps} for rate, steps in ((1.5, 8000), (2.0, 8000))],
    "momentum": [
        {"optim.name": "sgd", "optim.sgd.momentum": 0.5, "optim.lr": rate, "train.steps": 8000} for rate in (2.0, 2.5)
    ],
    "Adam": [
        {"optim.name": "adam", "optim.adam.eps": 1e-7, "optim.lr": rate, "train.steps": steps}
        for rate, steps in ((7e-4, 8000), (1e-3, 6000))
    ],
    "SAM": [
        GD | {"optim.sam_radius": radius, "optim.lr": rate, "train.steps": steps}
        for radius, rate, steps in ((0.1, 0.5, 12_000), (0.05, 1.0, 8000))
    ],
    "SGD": [GD | {"optim.lr": 2.0, "train.batch_size": BATCH, "train.steps": 12_000}],
}
# On images λ_max begins at 20 to 30, so that the rates are smaller.
METHODS_ON_IMAGES: dict[str, list[Overrides]] = {
    "GD": [GD | {"optim.lr": 0.08, "train.steps": 2500}],
    "momentum": [{"optim.name": "sgd", "optim.sgd.momentum": 0.5, "optim.lr": 0.12, "train.steps": 2500}],
    "Adam": [{"optim.name": "adam", "optim.adam.eps": 1e-7, "optim.lr": 3e-4, "train.steps": 1500}],
    "SAM": [GD | {"optim.sam_radius": 0.05, "optim.lr": 0.08, "train.steps": 1500}],
    "SGD": [GD | {"optim.lr": 0.08, "train.batch_size": BATCH, "train.steps": 6000}],
}
# A run is measured so many times, at equal distances.
TIMES = 60


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of gradient descent on all examples."""
    settings: Overrides = {
        "experiment": "e_edges",
        "data.scaling": "unit",
        "data.validation_fraction": 0.0,
        "data.train_size": 500,
        "model.name": "mlp",
        "model.mlp.hidden": (32, 32),
        "model.mlp.activation": "tanh",
        "schedule.name": "constant",
        "train.loss": "squared_error",
        "train.batch_size": 0,
        "measure.performance": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "checkpoint.keep": "end",
    }
    on_images: Overrides = {
        "data.name": "cifar10",
        "data.scaling": "standardised",
        "data.train_size": 5_000,
        "measure.batch_size": 2_500,
    }
    at_scale = {
        "smoke": {"data.train_size": 60, "model.mlp.hidden": (6,)},
        "medium": on_images,
        "paper": on_images | {"model.mlp.hidden": (200, 200)},
    }
    return override(base_config(scale), settings | at_scale.get(scale, {}))


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every optimiser at its rates, with every seed; at `smoke` at one rate."""
    methods = METHODS if scale in ("smoke", "small") else METHODS_ON_IMAGES
    longer = {"smoke": 0.02, "paper": 4}.get(scale, 1)
    runs: list[Overrides] = []
    for at_rates in methods.values():
        own = []
        for one in at_rates[:1] if scale == "smoke" else at_rates:
            steps = int(one["train.steps"] * longer)
            every = max(steps // TIMES, 1)
            own.append(one | {"train.steps": steps, "measure.stability_edge": f"every {every} steps"})
        runs += product(own, {"seed": SEEDS[scale]})
    return runs
