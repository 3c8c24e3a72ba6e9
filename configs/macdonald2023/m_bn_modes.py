"""Jacobians with batch norm in train and in eval mode: *On progressive sharpening*, appendix A.1, theorem A.1.

    make sweep CONFIG=m_bn_modes:small

smoke: seconds, 1 run of a perceptron. small: a perceptron and a narrow VGG-11 on scikit-learn's digits, up to 1,000
examples, 30 runs. paper: both on CIFAR-10 after `make data DATASETS=cifar10`, the perceptron with up to 10,000
examples, the VGG with up to 316 and after training only, 8 runs.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, chain, override, product
from hessflat.runs.schema import base_config

SIZES = (10, 32, 100, 316, 1_000)
# At scale small other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"small": tuple(range(10, 25)), "paper": (0, 1, 2, 3, 4)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run of a perceptron with batch norm, measured at its initial weights and after training.

    Theorem A.1 is about a single layer and has no experimental setting. The networks are trained like those whose
    Jacobians the paper measures, by SGD with momentum and a decaying learning rate. The convolutional network is a
    narrow version of the paper's VGG-11, because the derivatives of a whole batch are computed in float64. For it N
    counts examples, while the statistics of a channel are over N times the number of pixels.
    """
    settings: Overrides = {
        "experiment": "m_bn_modes",
        "model.name": "mlp",
        "model.mlp.hidden": (64, 64, 64),
        "model.mlp.batch_norm": True,
        "data.scaling": "standardised",
        "train.batch_size": 128,
        "optim.lr": 0.05,
        "checkpoint.keep": "end",
        "measure.performance": "start",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.batch_norm": "start",
        "measure.sample_sizes": SIZES,
        "measure.operators": ("hessian",),
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {
            "model.mlp.hidden": (6, 6),
            "data.train_size": 200,
            "train.epochs": 2,
            "measure.sample_sizes": (10, 100),
            "measure.batch_norm": "end",
            "measure.blocks": 2,
            "measure.operators": (),
        },
        "small": {
            "model.mlp.hidden": (32, 32, 32),
            "data.validation_fraction": 0.0,
            "train.epochs": 30,
        },
        "paper": {
            "data.name": "cifar10",
            "data.train_size": 10_000,
            "data.validation_fraction": 0.0,
            "train.epochs": 10,
            "measure.sample_sizes": (*SIZES, 3_162, 10_000),
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: the perceptron and, except at scale smoke, the convolutional network, with every seed.

    The convolutional network has smaller batches, because the larger ones would take an hour.
    """
    perceptron: Overrides = {"model.name": "mlp"}
    if scale == "smoke":
        return [perceptron]
    convolutional: Overrides = {
        "model.name": "vgg",
        "model.mlp.hidden": (100,),
        "model.mlp.batch_norm": False,
        "model.vgg.depth": 11,
        "model.vgg.width": 4,
        "model.vgg.head": (16,),
        "model.vgg.poolings": 3 if scale == "small" else 5,
        "measure.sample_sizes": (10, 100, 1_000) if scale == "small" else SIZES[:-1],
        "measure.batch_norm": "start" if scale == "small" else "end",
        "measure.operators": (),
    }
    # Other examples are measured with every seed.
    seeds: list[Overrides] = [{"seed": seed, "measure.seed": seed} for seed in SEEDS[scale]]
    return chain(product([perceptron], seeds), product([convolutional], seeds[:3] if scale == "paper" else seeds))
