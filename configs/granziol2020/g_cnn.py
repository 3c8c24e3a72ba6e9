"""A convolutional network without batch norm, and L2: *Flatness is a False Friend*, section 4, figure 4.

    make sweep CONFIG=g_cnn:small

smoke: seconds, 2 runs. small: a narrow one, P = 9,818, on scikit-learn's digits, 60 runs. medium: a wider one, P =
22,042, on 5,000 images of CIFAR-10 after `make data DATASETS=cifar10`, 12 runs of 120 epochs, 0.9 hours on two cores.
paper: All-CNN-C, P = 1,387,108, on CIFAR-100 after `make data DATASETS=cifar100`, 6 runs, on an accelerator.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_wrn import CIFAR, FEW_DIGITS, FEW_IMAGES, FEWER_PRODUCTS, TINY, seeded
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small", "medium", "paper")

# Without batch norm 0.02, which the residual networks bear, takes the weights to zero.
L2 = {
    "smoke": (0.0, 5e-4),
    "small": (0.0, 5e-4, 2e-3, 5e-3),
    "medium": (0.0, 2e-4, 5e-4, 2e-3),
    "paper": (0.0, 5e-4),
}
# At scale small other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": tuple(range(10, 25)), "medium": (10, 11, 12), "paper": (0, 1, 2)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without L2, with the paper's learning rate and momentum."""
    settings: Overrides = {
        "experiment": "g_cnn",
        "model.name": "cnn9",
        "optim.lr": 0.03,
        "schedule.name": "linear_decay",
        "checkpoint.keep": "end",
    }
    narrow: Overrides = {"model.cnn9.width": 8, "model.cnn9.last_padding": "same"}
    at_scale: dict[str, Overrides] = {
        "smoke": TINY | narrow | {"model.cnn9.width": 2},
        "small": FEW_DIGITS | narrow | {"train.epochs": 300},
        # Weights that keep the size of activations, and smaller batches for more steps: without batch norm it is slow.
        "medium": FEW_IMAGES
        | FEWER_PRODUCTS
        | narrow
        | {"model.cnn9.width": 12, "model.cnn9.init": "he", "train.batch_size": 64, "train.epochs": 120},
        "paper": CIFAR,
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every L2 with every seed."""
    return product({"optim.l2": L2[scale]}, seeded(scale, SEEDS[scale]))
