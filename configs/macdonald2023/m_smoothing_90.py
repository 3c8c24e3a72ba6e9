"""Label smoothing over many epochs: *On progressive sharpening*, section C.1, figures 28 and 29.

    make sweep CONFIG=m_smoothing_90:small

smoke: seconds, 2 runs. small: scikit-learn's digits and a perceptron with batch norm, 60 runs. medium: a narrow VGG-11
on 5,000 images of CIFAR-10 after `make data DATASETS=cifar10`, 15 runs, 0.8 hours on two cores. paper: VGG-11 on
CIFAR-10, 15 runs, on an accelerator.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_wrn import FEW_IMAGES, seeded
from configs.macdonald2023.m_regularisers import NARROW
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small", "medium", "paper")

# The figures' own values are not in the text: those of section 5.
SMOOTHING = (0.0, 0.5, 0.75)
# At scale small other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": tuple(range(10, 30)), "medium": (0, 1, 2, 3, 4), "paper": (0, 1, 2, 3, 4)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without smoothing, measured every 5 steps of the first epoch and then after epochs.

    The paper gives 90 epochs and batches of 128, but neither learning rate, momentum nor weight decay. The momentum
    here is that of section 6.3. The learning rate is constant, and there is no weight decay, which would bound the
    outputs.
    """
    settings: Overrides = {
        "experiment": "m_smoothing_90",
        "data.scaling": "standardised",
        "data.validation_fraction": 0.0,
        "optim.lr": 0.05,
        "optim.sgd.momentum": 0.9,
        "schedule.name": "constant",
        "train.batch_size": 128,
        "train.epochs": 90,
        "measure.modes": ("train",),
        "measure.performance": "end",
        "measure.spectra": "never",
        "measure.operators": ("hessian",),
        "checkpoint.keep": "end",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {
            "model.name": "mlp",
            "model.mlp.hidden": (6,),
            "model.mlp.batch_norm": True,
            "data.train_size": 60,
            "train.batch_size": 6,
            "train.epochs": 3,
            **measured("every 5 steps to 1 epoch, every 2 epochs"),
        },
        # An epoch has 10 steps. Smaller batches, whose batch norm is noisy, keep the loss of all examples above zero.
        "small": {
            "model.name": "mlp",
            "model.mlp.hidden": (32, 32),
            "model.mlp.batch_norm": True,
            "data.scaling": "overall",
            "data.train_size": 1_000,
            "train.batch_size": 100,
            "optim.lr": 0.1,
            **measured("every 1 step to 1 epoch, every 2 epochs to 10 epochs, every 5 epochs"),
        },
        "medium": FEW_IMAGES
        | NARROW["medium"]["vgg"]
        | {
            "model.name": "vgg",
            "train.epochs": 90,
            "measure.spectra": "never",
            "measure.scaled_sharpness": "never",
            "measure.examples": 250,
            "measure.batch_size": 250,
            **measured("every 5 steps to 1 epoch, every 3 epochs"),
        },
        "paper": {
            "data.name": "cifar10",
            "model.name": "vgg",
            "model.vgg.depth": 11,
            "measure.examples": 2_500,
            "measure.batch_size": 2_500,
            **measured("every 5 steps to 1 epoch, every 1 epoch"),
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every smoothing with every seed."""
    smoothings = SMOOTHING[:2] if scale == "smoke" else SMOOTHING
    return product({"train.label_smoothing": smoothings}, seeded(scale, SEEDS[scale]))


def measured(when: str) -> Overrides:
    """The overrides that set the times of all measurements."""
    return {"measure.outputs": when, "measure.sharpness": when, "measure.jacobian": when}
