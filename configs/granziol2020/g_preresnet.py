"""A pre-activation residual network, and L2: *Flatness is a False Friend*, section 4, figure 5.

    make sweep CONFIG=g_preresnet:small

smoke: seconds, 2 runs. small: a narrow one, P = 8,678, on scikit-learn's digits, 48 runs. medium: a wider one, P =
32,786, on 5,000 images of CIFAR-10 after `make data DATASETS=cifar10`, 16 runs of 40 epochs, 0.7 hours on two cores.
paper: PreResNet-164, P = 1,726,388, on CIFAR-100 after `make data DATASETS=cifar100`, 6 runs, on an accelerator.
"""

from ml_collections import ConfigDict

from configs.granziol2020 import g_wrn
from configs.granziol2020.g_wrn import (
    CIFAR,
    FEW_DIGITS,
    FEW_IMAGES,
    FEWER_PRODUCTS,
    L2,
    SEEDS,
    TRAINED_ALONE,
    seeded,
)
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = g_wrn.SCALES


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without L2, with the largest learning rate of the paper's search."""
    settings: Overrides = {
        "experiment": "g_preresnet",
        "model.name": "preresnet",
        "optim.lr": 0.1,
        "schedule.name": "linear_decay",
        "measure.operators": ("hessian",),
        "checkpoint.keep": "end",
    }
    narrow: Overrides = {"model.preresnet.depth": 11, "model.preresnet.width": 4}
    at_scale: dict[str, Overrides] = {
        "smoke": TRAINED_ALONE | narrow | {"model.preresnet.width": 2},
        "small": FEW_DIGITS | narrow | {"train.epochs": 120},
        "medium": FEW_IMAGES
        | FEWER_PRODUCTS
        | narrow
        | {"model.preresnet.width": 8, "train.batch_size": 64, "train.epochs": 40},
        "paper": CIFAR,
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every L2 with every seed."""
    return product({"optim.l2": L2[scale]}, seeded(scale, SEEDS[scale]))
