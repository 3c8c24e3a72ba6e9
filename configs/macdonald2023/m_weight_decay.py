"""Weight decay, the Jacobian, sharpness and the gap: *On progressive sharpening*, section 6.1, figure 2.

    make sweep CONFIG=m_weight_decay:small

smoke: seconds, 2 runs. small: a narrow ResNet-10 on scikit-learn's digits, 100 runs, five minutes on two cores. medium:
a narrow ResNet-10 on 5,000 images of CIFAR-10 after `make data DATASETS=cifar10`, 15 runs, half an hour on two cores.
paper: ResNet-18 on CIFAR-10, 60 runs, on an accelerator. A run may be stopped at any time, as by `timeout 590`, and
continued by the same command.
"""

from ml_collections import ConfigDict

from configs.macdonald2023 import m_regularisers
from hessflat.config import Overrides, drawn_anew, product

SCALES = m_regularisers.SCALES

L2 = {
    "smoke": (0.0, 5e-4),
    "small": (0.0, 5e-4, 2e-3, 5e-3, 1e-2),
    "medium": (0.0, 2e-4, 5e-4, 1e-3, 2e-3),
    "paper": (0.0, 1e-4, 5e-4, 1e-3),
}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of `m_regularisers` with batch norm, in an experiment on the runs that vary weight decay."""
    return m_regularisers.get_config(scale)


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every weight decay with every initial learning rate and seed."""
    rates, seeds = m_regularisers.LEARNING_RATES[scale], m_regularisers.SEEDS[scale]
    return product({"optim.l2": L2[scale], "optim.lr": rates}, drawn_anew(seeds))
