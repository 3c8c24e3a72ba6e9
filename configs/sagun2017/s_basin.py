"""Large batches, then small batches from the same weights: *Empirical Analysis of the Hessian*, §4.1, figures 8 and 9.

    make sweep CONFIG=s_basin:small

smoke: seconds, 2 runs. small: scikit-learn's digits and a narrow AlexNet, 60 runs. medium: 5,000 images of CIFAR-10 and
a narrow AlexNet, P = 129,014, batches of 500 and then of 32, 3,000 steps each and 6,000, 20 runs, 1.3 hours on two
cores, after `make data DATASETS=cifar10`. paper: CIFAR-10 after `make data DATASETS=cifar10`, batches of 1,000 and then
of 32, 25,000 steps each, 6 runs, for an accelerator.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_wrn import seeded
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small", "medium", "paper")

# Part I, from which Part II goes on with the same learning rate.
LARGE = {"smoke": 64, "small": 256, "medium": 500, "paper": 1_000}
SMALL = {"smoke": 8, "small": 16, "medium": 32, "paper": 32}
# At scale small other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": tuple(range(10, 25)), "medium": (10, 11, 12, 13, 14), "paper": (0, 1, 2)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of Part I of one seed: large batches, no momentum, losses and accuracies recorded 250 times."""
    settings: Overrides = {
        "experiment": "s_basin",
        "model.name": "alexnet",
        # With PyTorch's uniform weights, a third of these in variance, a network of eight layers without batch norm and
        # without momentum stays at a loss of ln 10 for thousands of steps.
        "model.alexnet.init": "he",
        "optim.sgd.momentum": 0.0,
        "schedule.name": "constant",
        "data.validation_fraction": 0.0,
        "train.batch_size": LARGE[scale],
        "checkpoint.keep": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {
            "optim.lr": 0.05,
            "train.steps": 20,
            "data.train_size": 128,
            "model.alexnet.width": 2,
            "model.alexnet.head": (8,),
            "model.alexnet.poolings": 1,
            "measure.performance": "every 2 steps",
            "measure.line_points": 7,
        },
        "small": {
            # Rate, sizes of batches and the shorter number of steps are the first few tried at which the switch shows
            # and Part II learns again; hence the longer parts beside them, in `get_sweep`.
            "optim.lr": 0.03,
            "train.steps": 1_500,
            # Half of the examples, so that 1 % of test accuracy is nine of them.
            "data.test_fraction": 0.5,
            "model.alexnet.width": 8,
            "model.alexnet.head": (64, 64),
            "model.alexnet.poolings": 2,
            "measure.performance": "every 6 steps",
        },
        "medium": {
            "optim.lr": 0.05,
            "train.steps": 3_000,
            "data.name": "cifar10",
            "data.train_size": 5_000,
            "model.alexnet.width": 12,
            "model.alexnet.head": (128, 128),
            "measure.performance": "every 40 steps",
        },
        "paper": {
            # The paper gives no rate. AlexNet's own, 0.01 with momentum 0.9 and batches of 128, moves as far as 0.1
            # without momentum; in batches of 32 a step is as noisy, by rate over batch size, at a quarter of that.
            "optim.lr": 0.025,
            "train.steps": 25_000,
            "data.name": "cifar10",
            "measure.performance": "every 100 steps",
            "measure.batch_size": 10_000,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: Part I and Part II of each seed.

    At scales small and medium also those of parts twice as long, in which Part I reaches a lower loss.
    """
    second: Overrides = {
        "train.batch_size": SMALL[scale],
        "train.init_from": f"train.batch_size={LARGE[scale]},measure.linear_interpolation=never",
        "measure.linear_interpolation": "end",
    }
    longer: dict[str, Overrides] = {
        "small": {"train.steps": 3_000, "measure.performance": "every 12 steps"},
        "medium": {"train.steps": 6_000, "measure.performance": "every 80 steps"},
    }
    lengths = ({}, longer[scale]) if scale in longer else ({},)
    return product(lengths, ({}, second), seeded(scale, SEEDS[scale]))
