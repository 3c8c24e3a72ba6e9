"""ResNet-18 on CIFAR-10 as *On progressive sharpening, flat minima and generalisation*, §6.3, trains it.

    make train CONFIG=configs/resnet18_cifar10.py:small
    make sweep CONFIG=configs/resnet18_cifar10.py:paper

smoke: half a minute. small: a narrow one on scikit-learn's digits, two minutes on two cores. paper: 90 epochs of
batches of 128, learning rate 0.1 divided by ten after epochs 50 and 80, weight decay 5e-4, after
`make data DATASETS=cifar10`; on an accelerator. It may be stopped at any time, as by `timeout 590`, and continued by
the same command.
"""

from ml_collections import ConfigDict

from configs.g_logistic import DIGITS
from hessflat.config import Overrides, override, product
from hessflat.schema import base_config


def get_config(scale: str = "small") -> ConfigDict:
    """One run with augmentation; curvature is measured on 1,000 examples, in both modes of batch norm."""
    settings: Overrides = {
        "experiment": "resnet18_cifar10",
        "model.name": "resnet",
        "optim.lr": 0.1,
        "optim.l2": 5e-4,
        "schedule.name": "step_decay",
        "train.augment": 1.0,
        "measure.jacobian": "end",
        "checkpoint.keep": "end",
    }
    on_digits: Overrides = DIGITS | {"data.scaling": "standardised", "model.resnet.width": 8, "train.augment": 0.0}
    at_scale: dict[str, Overrides] = {
        "smoke": on_digits | {"train.epochs": 1, "measure.spectra": "never", "measure.examples": 50},
        "small": on_digits
        | {
            "train.epochs": 18,
            "schedule.step_decay.after": (10, 16),
            "measure.spectra": "end",
            "measure.examples": 200,
            "measure.lanczos_steps": 30,
        },
        "paper": {
            "data.name": "cifar10",
            "data.validation_size": 0.0,
            "train.epochs": 90,
            "measure.spectra": "end",
            "measure.examples": 1_000,
            "measure.batch_size": 1_000,
            "measure.lanczos_steps": 60,
            "checkpoint.minutes": 1.0,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The weight decays of the paper's figure 2, each with every seed."""
    l2 = (0.0, 5e-4) if scale == "smoke" else (0.0, 1e-4, 5e-4, 1e-3)
    return product({"optim.l2": l2, "seed": (0,) if scale == "smoke" else (0, 1, 2)})
