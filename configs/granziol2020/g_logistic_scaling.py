"""Which scaling of the pixels reproduces the numbers of *Flatness is a False Friend*, figure 2? The paper does not say.

    make data DATASETS=mnist
    make sweep CONFIG=g_logistic_scaling:paper

smoke: seconds, 4 runs. small: digits, 54 runs, a minute. paper: MNIST, 54 runs, an hour on two cores.
"""

from ml_collections import ConfigDict

from configs.granziol2020 import g_logistic
from hessflat.config import Overrides, override, product

SCALINGS = ("unit", "symmetric", "standardised")


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run of softmax regression as in `g_logistic`, with its curvature measured at the end."""
    config = g_logistic.get_config(scale)
    at_the_end = {
        "measure.scaled_sharpness": "never",
        "measure.spectra": "end",
        "measure.jacobian": "end",
        "measure.full_spectrum": "never",
        "measure.operators": ("hessian",),
    }
    return override(config, {"experiment": "g_logistic_scaling", "measure.probes": 1, **at_the_end})


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every scaling with every L2 of the paper.

    Each trains for the 50 epochs of the paper's schedule, and for the 1,000 of its figure.
    """
    if scale == "smoke":
        return product({"data.scaling": SCALINGS[:2], "optim.l2": g_logistic.L2["smoke"]})
    epochs = (50, 1000) if scale == "paper" else (50, 200)
    l2, seeds = g_logistic.L2["paper"], (0, 1, 2)
    return product({"train.epochs": epochs, "data.scaling": SCALINGS, "optim.l2": l2, "seed": seeds})
