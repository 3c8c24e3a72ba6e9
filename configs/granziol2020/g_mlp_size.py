"""Perceptrons with the hidden units, or with the parameters, of *Flatness is a False Friend*, section 4, figure 3.

    make data DATASETS=mnist
    make sweep CONFIG=g_mlp_size:paper

smoke: seconds, 2 runs. paper: MNIST, P = 9,550 and 79,510, 60 runs, a quarter of an hour on two cores.
"""

from ml_collections import ConfigDict

from configs.granziol2020 import g_mlp
from hessflat.config import Overrides, override, product

SCALES = ("smoke", "paper")

# 784-100-10 has 79,510 parameters. The paper's 9,960 are those of between 12 and 13 hidden units.
HIDDEN = {"smoke": ((12,), (100,)), "paper": ((12,), (100,))}
L2 = {"smoke": (0.0,), "paper": (0.0, 5e-4)}
# At scale paper other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "paper": tuple(range(10, 25))}


def get_config(scale: str = "paper") -> ConfigDict:
    """The configuration of a run without L2, with the pixels and the split of the paper's figure 2."""
    settings: Overrides = {
        "experiment": "g_mlp_size",
        "measure.operators": ("hessian",),
        "measure.scaled_sharpness": "never",
        "measure.jacobian": "never",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {},
        "paper": {"data.scaling": "symmetric", "data.order": "stored", "measure.examples": 4_000},
    }
    return override(g_mlp.get_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "paper") -> list[Overrides]:
    """The overrides of each run: every network with every L2 and seed."""
    return product({"model.mlp.hidden": HIDDEN[scale], "optim.l2": L2[scale], "seed": SEEDS[scale]})
