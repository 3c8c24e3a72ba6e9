"""Softmax regression and L2 where a fifth of the labels are drawn anew: `g_logistic` in a regime where L2 matters.

    make sweep CONFIG=h_noisy_logistic:small

smoke: seconds, 2 runs. small: 300 of scikit-learn's digits to train on, 25 runs, half a minute.
"""

from ml_collections import ConfigDict

from configs.granziol2020 import g_logistic
from hessflat.config import Overrides, drawn_anew, override, product

SCALES = ("smoke", "small")

L2 = {"smoke": (0.0, 5e-3), "small": (0.0, 1e-3, 5e-3, 2e-2, 1e-1)}
# L2, sizes and scaling were tried on seeds 0 to 2.
SEEDS = {"smoke": (0,), "small": (10, 11, 12, 13, 14)}

# On clean digits no L2 changes the test accuracy by as much as some hundred test images can tell. Noise that stays is
# what *Flatness is a False Friend*, §4, names as that which L2 helps against. It is in all splits, so that it is no
# part of the gap between them.
NOISY: Overrides = {
    "data.label_noise": 0.2,
    "data.train_size": 300,
    "data.test_fraction": 0.65,
    "data.scaling": "standardised",
    "measure.spectra": "start, end",
    "measure.jacobian": "start, end",
}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without L2."""
    return override(g_logistic.get_config(scale), NOISY | {"experiment": "h_noisy_logistic"})


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every L2 with every seed, which draws the split and its noise as well."""
    return product({"optim.l2": L2[scale]}, drawn_anew(SEEDS[scale]))
