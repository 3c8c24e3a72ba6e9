"""Five regularisers, flatness and the Jacobian: *On progressive sharpening*, section 6.3, figures 5 and 20 to 27.

    make sweep CONFIG=m_regularisers:small

smoke: seconds, 3 runs. small: a narrow VGG-11 and a narrow ResNet-10, with and without batch norm, on scikit-learn's
digits, 320 runs, some minutes on two cores. medium: the same, wider, on 5,000 images of CIFAR-10 after `make data
DATASETS=cifar10`, 84 runs of 28 to 46 epochs, three hours on two cores with those of `m_weight_decay`. paper:
VGG-11 and ResNet-18, with and without batch norm, on CIFAR-10 and CIFAR-100 after `make data DATASETS="cifar10
cifar100"`, 1,920 runs, on accelerators.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.granziol2020.g_wrn import FEW_DIGITS, FEW_IMAGES
from hessflat.config import Overrides, drawn_anew, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small", "medium", "paper")

# The section's weight decay, which every run has but those that study weight decay itself. In some hundred steps on
# digits in place of 35,000 on CIFAR a larger one is the same, as in the other experiments on digits.
L2 = {"smoke": 5e-4, "small": 2e-3, "medium": 5e-4, "paper": 5e-4}

# The regularisers by the setting that has their degree, and their degrees beside "without". The paper's figures have
# them on their axes, its text does not. Of weight decay the others' own degree is one.
DEGREES: dict[str, dict[str, tuple[float, ...]]] = {
    "smoke": {"optim.l2": (0.0,), "optim.sam_radius": (0.1,)},
    "small": {
        "optim.l2": (0.0, 1e-2),
        "train.label_smoothing": (0.25, 0.5),
        "train.mixup": (1.0,),
        "train.augment": (0.5,),  # shifts by 4 of 8 pixels: with all images shifted, those left alone are not learnt
        "optim.sam_radius": (0.05, 0.1, 0.3),
    },
    "medium": {
        "optim.l2": (0.0, 2e-3),
        "train.label_smoothing": (0.5,),
        "train.mixup": (0.5,),
        "train.augment": (0.5,),
        "optim.sam_radius": (0.1,),
    },
    "paper": {
        "optim.l2": (0.0, 1e-4, 1e-3),
        "train.label_smoothing": (0.25, 0.5, 0.75),
        "train.mixup": (0.2, 0.5, 1.0),
        "train.augment": (0.25, 0.5, 1.0),
        "optim.sam_radius": (0.05, 0.1, 0.2),
    },
}
# Initial rates: the paper's three of §6.2, fewer at the smaller scales. Without batch norm the largest diverges there,
# or ends in weights that give one answer to all; at scale medium a network without it has its own.
LEARNING_RATES = {"smoke": (0.1,), "small": (0.1, 0.02), "medium": (0.1,), "paper": (0.1, 0.01, 0.001)}
RATES_WITHOUT_NORM = LEARNING_RATES | {"small": (0.05, 0.02)}
# Each draws the split anew. The smaller scales were tried on seeds 7, 8 and 100, and small at first on 0 to 2.
SEEDS = {"smoke": (0,), "small": (10, 11, 12, 13), "medium": (11, 12, 13), "paper": (0, 1, 2, 3, 4)}

# What makes the networks narrow enough for few images; on digits the VGG has 3 poolings in place of 5.
NARROW: dict[str, dict[str, Overrides]] = {
    "small": {
        "resnet": {"model.resnet.depth": 10, "model.resnet.width": 4},
        "vgg": {"model.vgg.depth": 11, "model.vgg.width": 4, "model.vgg.head": (32, 32), "model.vgg.poolings": 3},
    },
    "medium": {
        "resnet": {"model.resnet.depth": 10, "model.resnet.width": 6},
        "vgg": {"model.vgg.depth": 11, "model.vgg.width": 8, "model.vgg.head": (64, 64)},
    },
    "paper": {"resnet": {}, "vgg": {"model.vgg.depth": 11}},
}
# On CIFAR-10 the VGG is faster than the ResNet, and slower to learn.
LONGER: dict[str, dict[Any, Overrides]] = {
    "medium": {"vgg": {"train.epochs": 46, "schedule.step_decay.after": (26, 41)}},
}
# Without batch norm networks need weights that keep the size of activations, LeCun's where residuals are added and He's
# where they are not, smaller rates, and more steps. On digits the VGG then has one pooling: a 3x3 convolution of a
# single pixel sees zeros in eight places of nine, so that after three poolings four layers would make activations
# vanish all the same.
WITHOUT_NORM: dict[str, dict[str, Overrides]] = {
    "small": {
        "resnet": {"train.epochs": 160, "schedule.step_decay.after": (88, 142)},
        "vgg": {"train.epochs": 160, "schedule.step_decay.after": (88, 142), "model.vgg.poolings": 1},
    },
    "medium": {
        "resnet": {
            "optim.lr": 0.03,
            "train.batch_size": 32,
            "train.epochs": 36,
            "schedule.step_decay.after": (23, 32),
        },
        "vgg": {
            "optim.lr": 0.01,
            "train.batch_size": 32,
            "train.epochs": 46,
            "schedule.step_decay.after": (29, 42),
        },
    },
    "paper": {"resnet": {}, "vgg": {}},
}
INITIAL_WEIGHTS = {"resnet": "lecun", "vgg": "he"}

# The curvature of 1,000 clean examples, H and G in batch norm's train mode, the Jacobian in eval mode. The training
# split is in random order, so that its first examples are a random batch of it, the same in every run of a seed.
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
# What else is taken for flatness, docs/flatness.md; of fewer examples, for they evaluate the loss again and again.
FLATNESS: Overrides = {
    **dict.fromkeys(
        (
            "measure.m_sharpness",
            "measure.geodesic_sharpness",
            "measure.fisher_rao",
            "measure.pac_bayes",
            "measure.relative_flatness",
            "measure.norms",
        ),
        "end",
    ),
    "measure.flatness_examples": 256,
    "measure.m": 128,
    "measure.m_steps": 3,
    "measure.m_draws": 1,
    "measure.noise_draws": 2,
    "measure.relative_probes": 4,
}
# On digits those take longer than training does.
FLATNESS_ON_DIGITS: Overrides = {
    "measure.m_sharpness": "end",
    "measure.fisher_rao": "end",
    "measure.pac_bayes": "end",
    "measure.norms": "end",
    "measure.flatness_examples": 128,
    "measure.m": 64,
    "measure.m_steps": 3,
    "measure.noise_draws": 2,
}


def networks(scale: str, batch_norm: tuple[bool, ...] = (True, False)) -> list[Overrides]:
    """The overrides that select ResNet and VGG, each for every value of `batch_norm`; at scale smoke the only one."""
    if scale == "smoke":
        return [{}] * batch_norm.count(True)
    return [network(scale, name, has) for name in ("resnet", "vgg") for has in batch_norm]


def network(scale: str, name: str, batch_norm: bool) -> Overrides:
    """The overrides that select one network."""
    chosen: Overrides = {"model.name": name, f"model.{name}.batch_norm": batch_norm} | NARROW[scale][name]
    if batch_norm:
        return chosen
    return chosen | {f"model.{name}.init": INITIAL_WEIGHTS[name]} | WITHOUT_NORM[scale][name]


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
        "small": on_digits | FLATNESS_ON_DIGITS | NARROW["small"]["resnet"],
        # A third of the paper's epochs, each with a ninth of its images; smaller batches, for more steps. Curvature is
        # of 256 examples, a larger share of these few images than 1,000 of the paper's.
        "medium": FEW_IMAGES
        | FLATNESS
        | NARROW["medium"]["resnet"]
        | {
            "train.epochs": 28,
            "schedule.step_decay.after": (16, 25),
            "train.batch_size": 64,
            "measure.performance": "end",
            "measure.examples": 256,
            "measure.batch_size": 256,
            "measure.trace_probes": 10,
        },
        "paper": FLATNESS
        | {
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
    longer = LONGER.get(scale, {})
    at_rates = [
        {"optim.lr": rate} | longer.get(chosen.get("model.name"), {}) | chosen
        for has, rates in ((True, LEARNING_RATES), (False, RATES_WITHOUT_NORM))
        for chosen in networks(scale, (has,))
        for rate in rates[scale]
    ]
    return product(data, degrees(scale), at_rates, drawn_anew(SEEDS[scale]))
