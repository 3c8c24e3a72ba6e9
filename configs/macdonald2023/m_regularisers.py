"""Five regularisers, flatness and the Jacobian: *On progressive sharpening*, section 6.3, figures 5 and 20 to 27.

    make sweep CONFIG=m_regularisers:small

smoke: seconds, 3 runs. small: a narrow VGG-11 and a narrow ResNet-10, with and without batch norm, on scikit-learn's
digits, 216 runs, some minutes on two cores. paper: VGG-11 and ResNet-18, with and without batch norm, on CIFAR-10 and
CIFAR-100 after `make data DATASETS="cifar10 cifar100"`, 1,920 runs, on accelerators.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_wrn import FEW_DIGITS
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

# The section's weight decay, which every run has but those that study weight decay itself. Of 160 steps on digits in
# place of 35,000 on CIFAR a larger one is the same, as in the other experiments on digits.
L2 = {"smoke": 5e-4, "small": 2e-3, "paper": 5e-4}

# The regularisers by the setting that has their degree, and their degrees beside "without". The paper's figures have
# them on their axes, its text does not. Of weight decay the others' own degree is one.
DEGREES: dict[str, dict[str, tuple[float, ...]]] = {
    "smoke": {"optim.l2": (0.0,), "optim.sam_radius": (0.1,)},
    "small": {
        "optim.l2": (0.0, 1e-2),
        "train.label_smoothing": (0.25, 0.5),
        "train.mixup": (1.0,),
        "train.augment": (0.5,),  # shifts by 4 of 8 pixels: with all images shifted, those left alone are not learnt
        "optim.sam_radius": (0.1, 0.3),
    },
    "paper": {
        "optim.l2": (0.0, 1e-4, 1e-3),
        "train.label_smoothing": (0.25, 0.5, 0.75),
        "train.mixup": (0.2, 0.5, 1.0),
        "train.augment": (0.25, 0.5, 1.0),
        "optim.sam_radius": (0.05, 0.1, 0.2),
    },
}
# Initial rates: the paper's three of §6.2. Without batch norm the largest may diverge, which is then said.
LEARNING_RATES = {"smoke": (0.1,), "small": (0.1, 0.02), "paper": (0.1, 0.01, 0.001)}
SEEDS = {"smoke": (0,), "small": (0, 1, 2), "paper": (0, 1, 2, 3, 4)}

# What makes the networks narrow enough for digits; settings of one are refused in a run of the other.
NARROW_RESNET: Overrides = {"model.resnet.depth": 10, "model.resnet.width": 4}
NARROW_VGG: Overrides = {
    "model.resnet.depth": 18,
    "model.resnet.width": 64,
    "model.vgg.depth": 11,
    "model.vgg.width": 4,
    "model.vgg.head": (32, 32),
    "model.vgg.poolings": 3,
}
# The curvature of 1,000 clean examples, H and G in batch norm's train mode, the Jacobian in eval mode. The training
# split is in random order, so that its first examples are a random batch of it, the same in every run.
MEASURED: Overrides = {
    "measure.spectra": "end",
    "measure.jacobian": "end",
    "measure.modes": ("train",),
    "measure.examples": 1_000,
    "measure.batch_size": 1_000,
    "measure.lanczos_steps": 40,
    "measure.probes": 1,
    "checkpoint.keep": "end",
}


def networks(scale: str, batch_norm: tuple[bool, ...] = (True, False)) -> list[Overrides]:
    """The overrides that select ResNet and VGG, each for every value of `batch_norm`."""
    if scale == "smoke":
        return [{}]
    vgg: Overrides = NARROW_VGG if scale == "small" else {"model.vgg.depth": 11}
    return [
        {"model.name": name, f"model.{name}.batch_norm": has} | size
        for name, size in (("resnet", {}), ("vgg", vgg))
        for has in batch_norm
    ]


def degrees(scale: str) -> list[Overrides]:
    """The overrides for every degree of every regulariser alone, and those of the runs without another than weight
    decay.
    """
    return [{}, *({setting: degree} for setting, degrees in DEGREES[scale].items() for degree in degrees)]


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a ResNet with batch norm and weight decay, trained as in section 6.3.

    The learning rate is divided by 10 after epochs 50 and 80 of 90.
    """
    settings: Overrides = MEASURED | {
        "experiment": "m_regularisers",
        "model.name": "resnet",
        "optim.lr": 0.1,
        "optim.l2": L2[scale],
        "schedule.name": "step_decay",
        "train.batch_size": 128,
        "train.epochs": 90,
        "data.scaling": "standardised",
    }
    on_digits: Overrides = FEW_DIGITS | {
        "train.batch_size": 128,
        "train.epochs": 80,
        "schedule.step_decay.after": (44, 71),
        "measure.scaled_sharpness": "never",
        "measure.lanczos_steps": 16,
        "measure.trace_probes": 8,
        "measure.batch_stats_size": 0,
        "measure.examples": 128,
        "measure.batch_size": 0,
    }
    at_scale: dict[str, Overrides] = {
        "smoke": on_digits
        | {"model.name": "mlp", "model.mlp.hidden": (8,), "train.epochs": 2, "schedule.step_decay.after": (1,)},
        "small": on_digits | NARROW_RESNET,
        "paper": {
            "data.name": "cifar10",
            # Its figures show the accuracy on a validation set; how large it is, the paper does not say.
            "data.train_size": 45_000,
            "data.validation_size": 5_000,
            "measure.scaled_sharpness": "end",
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every degree of every regulariser for each network, data set, initial rate and seed.

    Networks vary before regularisers, so that processes side by side do not compile the same ones.
    """
    data = [{"data.name": name} for name in ("cifar10", "cifar100")] if scale == "paper" else [{}]
    return product(data, degrees(scale), networks(scale), {"optim.lr": LEARNING_RATES[scale], "seed": SEEDS[scale]})
