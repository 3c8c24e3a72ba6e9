"""A perceptron with one hidden layer, and L2: *Flatness is a False Friend*, section 4, figure 3.

    make sweep CONFIG=g_mlp:small

smoke: seconds, 2 runs. small: scikit-learn's digits, 20 runs. paper: MNIST after `make data DATASETS=mnist`, 30
runs, hours on two cores.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_logistic import DIGITS
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

L2 = {"smoke": (0.0, 5e-4), "small": (0.0, 5e-4, 2e-3, 1e-2), "paper": (0.0, 1e-4, 5e-4)}
# Seeds below 10 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": (10, 11, 12, 13, 14), "paper": tuple(range(10, 20))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without L2.

    784-100-10 has P = 79,510; the paper's P = 9,960 does not match any such network.
    """
    settings: Overrides = {
        "experiment": "g_mlp",
        "model.name": "mlp",
        "model.mlp.hidden": (100,),
        "optim.lr": 0.03,
        "schedule.name": "linear_decay",
        "data.scaling": "unit",
        "measure.scaled_sharpness": "end",
        "checkpoint.keep": "end",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {"train.epochs": 2, "measure.lanczos_steps": 10},
        "small": DIGITS | {"train.epochs": 200, "measure.lanczos_steps": 60},
        "paper": {
            "train.epochs": 50,
            "data.name": "mnist",
            "data.train_size": 45_000,
            "data.validation_size": 5_000,
            "measure.spectra": "end",
            "measure.jacobian": "end",
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every L2 with every seed."""
    return product({"optim.l2": L2[scale], "seed": SEEDS[scale]})
