"""A network with batch norm, with and without L2; its Hessian is measured by every protocol that a paper may choose.

    make sweep CONFIG=h_measurement:small

smoke: seconds, 1 run of a perceptron, without batch norm. small: a narrow VGG-11 on scikit-learn's digits, 16 runs.
paper: VGG-16 on CIFAR-10 with the settings of *Flatness is a False Friend*, after `make data DATASETS=cifar10`, on an
accelerator.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_logistic import DIGITS
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

# Of the digits, seeds 0 to 4 left open what L2 does to λ_max, which differs more between seeds than in other networks.
SEEDS = {"smoke": (0,), "small": tuple(range(20, 28)), "paper": (0, 1, 2)}
L2 = {"smoke": (0.0,), "small": (0.0, 5e-3), "paper": (0.0, 5e-4)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without L2, measured at its end only."""
    settings: Overrides = {
        "experiment": "h_measurement",
        "model.name": "vgg",
        "optim.lr": 0.05,
        "schedule.name": "linear_decay",
        "checkpoint.keep": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.sensitivity": "end",
        "measure.rtol": 1e-4,
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {
            "model.name": "mlp",
            "model.mlp.hidden": (4,),
            "train.epochs": 1,
            "measure.examples": 32,
            "measure.trace_probes": 2,
        },
        "small": DIGITS
        | {
            "data.scaling": "standardised",
            "model.vgg.depth": 11,
            "model.vgg.width": 4,
            "model.vgg.head": (16,),
            "model.vgg.poolings": 3,
            "train.epochs": 60,
            "measure.examples": 512,
            "measure.batch_stats_sizes": (16, 128),
        },
        "paper": {
            "data.name": "cifar10",
            "train.epochs": 300,
            "train.augment": 1.0,
            "measure.examples": 2_560,
            "measure.batch_size": 1_280,
            "measure.batch_stats_sizes": (32, 128),
            "checkpoint.minutes": 1.0,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every L2 with every seed."""
    return product({"optim.l2": L2[scale], "seed": SEEDS[scale]})
