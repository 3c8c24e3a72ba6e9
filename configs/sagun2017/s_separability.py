"""Gaussian blobs that overlap more and more, and more of them: *Empirical Analysis of the Hessian*, abstract and 3.1.

    make sweep CONFIG=s_separability:small

smoke: seconds, 4 runs. small: hidden layers of 12, up to 20 blobs, 48 runs. paper: hidden layers of 30 and up to 50
blobs, 60 runs.
"""

from ml_collections import ConfigDict

from configs.sagun2017 import s_outliers
from hessflat.config import Overrides, override, product

BLOBS = {"smoke": (2, 5), "small": (2, 5, 10, 20), "paper": (2, 5, 10, 20, 50)}
# The ends are the paper's. Centres of blobs are drawn from N(0, I), so that of two blobs of covariance 1 an example in
# 10¹² is nearer the other's centre, and of covariance 10 one in 80.
COVARIANCES = {"smoke": (1.0, 10.0), "small": (1.0, 2.0, 5.0, 10.0), "paper": (1.0, 2.0, 5.0, 10.0)}
SEEDS = {"smoke": (0,), "small": (10, 11, 12), "paper": (10, 11, 12)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run of `s_outliers` with SGD, which is how the paper trains both covariances."""
    settings: Overrides = {"experiment": "s_separability", "model.mlp.activation": "relu"}
    steps: Overrides = {"train.epochs": 20} if scale == "smoke" else {}
    return override(s_outliers.get_config(scale), settings | s_outliers.ALGORITHMS["SGD"] | steps)


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every number of blobs with every covariance and seed, of weights and of blobs."""
    return product(
        {"data.blobs.num_classes": BLOBS[scale], "data.blobs.spread": [value**0.5 for value in COVARIANCES[scale]]},
        [{"seed": seed, "data.blobs.seed": seed} for seed in SEEDS[scale]],
    )
