"""The mass of the spectrum at zero during training: *Flatness is a False Friend*, section 3.2 and appendix D.

    make sweep CONFIG=g_degeneracy:small

smoke: seconds, 1 run. small: narrow networks on scikit-learn's digits, P = 38,994 and 32,642, 12 runs. medium: a narrow
VGG-11 without batch norm and a narrow PreResNet-11, P = 335,858 and 18,856, on 5,000 images of CIFAR-10, after `make
data DATASETS=cifar10`, 6 runs of 60 epochs, 0.7 hours on two cores. paper: VGG-16 on CIFAR-10 and CIFAR-100 and
PreResNet-110 on CIFAR-100, P = 1.5e7 and 1.2e6, 9 runs, on an accelerator, after `make data DATASETS="cifar10
cifar100"`.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_wrn import CIFAR, FEW_DIGITS, FEW_IMAGES, TINY, seeded
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small", "medium", "paper")
# The sign of what is seen over training is decided by six seeds at least.
SEEDS = {"smoke": (0,), "small": (10, 11, 12, 13, 14, 15), "medium": (10, 11, 12), "paper": (0, 1, 2)}

# The paper gives neither learning rates nor L2, but that its rates are searched in 0.01, 0.03, 0.1. VGG-16 is without
# batch norm, as the paper speaks of its two modes for the other network alone, and then 0.1 is too much.
PLAIN_VGG: Overrides = {"model.name": "vgg", "model.vgg.batch_norm": False, "optim.lr": 0.03}
PRERESNET: Overrides = {"model.name": "preresnet", "optim.lr": 0.1}
# Narrow and without batch norm it does not learn to tell the digits in so few steps.
NARROW_VGG: Overrides = {
    "model.name": "vgg",
    "model.vgg.depth": 11,
    "model.vgg.width": 4,
    "model.vgg.head": (32, 32),
    "model.vgg.poolings": 3,
    "optim.lr": 0.1,
    "measure.modes": ("train",),
}
NARROW_PRERESNET: Overrides = {
    "model.preresnet.depth": 11,
    "model.preresnet.width": 8,
    "measure.modes": ("train", "eval"),
}
DEEP_PRERESNET: Overrides = {"model.preresnet.depth": 110}
# As wide as the bound needs to say something, without batch norm as the paper's, from weights that keep activations.
WIDER_VGG: Overrides = {
    "model.name": "vgg",
    "model.vgg.depth": 11,
    "model.vgg.width": 12,
    "model.vgg.head": (64, 64),
    "model.vgg.batch_norm": False,
    "model.vgg.init": "he",
    "optim.lr": 0.01,
    "train.batch_size": 32,
}

NETWORKS: dict[str, list[Overrides]] = {
    "smoke": [NARROW_VGG | {"model.vgg.width": 2, "model.vgg.head": (4,), "model.vgg.batch_norm": False}],
    "small": [NARROW_VGG, PRERESNET | NARROW_PRERESNET],
    "medium": [
        WIDER_VGG,
        PRERESNET | NARROW_PRERESNET | {"model.preresnet.width": 6, "train.batch_size": 128},
    ],
    "paper": [
        PLAIN_VGG | {"data.name": "cifar10"},
        PLAIN_VGG | {"data.name": "cifar100"},
        PRERESNET | DEEP_PRERESNET | {"data.name": "cifar100"},
    ],
}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run of a VGG, with the paper's 225 epochs, number of Lanczos steps, and one probe."""
    settings: Overrides = {
        "experiment": "g_degeneracy",
        "optim.l2": 5e-4,
        "schedule.name": "linear_decay",
        "checkpoint.keep": "end",
    }
    # The trace is no part of the question.
    asked: Overrides = {
        "measure.lanczos_steps": 100,
        "measure.probes": 1,
        "measure.trace_probes": 1,
        "measure.jacobian": "never",
        "measure.scaled_sharpness": "never",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": TINY | {"measure.spectra": "start", "measure.operators": ("hessian", "gauss_newton")},
        "small": FEW_DIGITS
        | asked
        | {"train.epochs": 60, "measure.spectra": "every 6 epochs", "measure.examples": 128},
        "medium": FEW_IMAGES
        | asked
        | {
            "train.epochs": 60,
            "measure.spectra": "every 20 epochs",
            "measure.examples": 256,
            "measure.batch_size": 256,
        },
        "paper": CIFAR | asked | {"train.epochs": 225, "measure.spectra": "every 25 epochs"},
    }
    return override(base_config(scale), settings | at_scale[scale] | NETWORKS[scale][0])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every network with every seed."""
    return product(NETWORKS[scale], seeded(scale, SEEDS[scale]))
