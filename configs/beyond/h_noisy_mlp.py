"""A perceptron and L2 where a fifth of the labels are drawn anew: `g_mlp` in a regime where L2 matters.

    make sweep CONFIG=h_noisy_mlp:small

smoke: seconds, 2 runs. small: 300 of scikit-learn's digits to train on, 20 runs, half a minute.
"""

from ml_collections import ConfigDict

from configs.beyond.h_noisy_logistic import NOISY, SEEDS
from configs.granziol2020 import g_mlp
from hessflat.config import Overrides, drawn_anew, override, product

SCALES = ("smoke", "small")

L2 = {"smoke": (0.0, 3e-3), "small": (0.0, 1e-3, 3e-3, 1e-2)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without L2."""
    return override(g_mlp.get_config(scale), NOISY | {"experiment": "h_noisy_mlp"})


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every L2 with every seed, which draws the split and its noise as well."""
    return product({"optim.l2": L2[scale]}, drawn_anew(SEEDS[scale]))
