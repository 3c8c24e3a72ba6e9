"""Gaussian blobs and a small network: *Empirical Analysis of the Hessian*, section 3.1, figure 2, appendix A, table 1.

    make sweep CONFIG=s_outliers:small

smoke: seconds, 2 runs. small: hidden layers of 12, up to 10 blobs, 50 runs. paper: hidden layers of 30 and up to 50
blobs, all 19 rows of the table, 95 runs.
"""

from ml_collections import ConfigDict

from configs.sagun2017.s_spectrum import BLOBS
from hessflat.config import Overrides, override
from hessflat.runs.schema import base_config

# (algorithm, activation, covariance) -> blobs: the rows of table 1.
ROWS: dict[tuple[str, str, float], tuple[int, ...]] = {
    ("GD", "tanh", 1.0): (2, 5, 10, 20),
    ("GD", "relu", 1.0): (2, 5, 10, 20, 50),
    ("SGD", "relu", 1.0): (2, 5, 10, 20, 50),
    ("SGD", "relu", 10.0): (2, 5, 10, 20, 50),
}
# The paper gives neither the number of examples, of steps, nor step and batch sizes.
ALGORITHMS: dict[str, Overrides] = {
    "GD": {"train.batch_size": 0, "train.epochs": 10_000, "optim.lr": 0.1},
    "SGD": {"train.batch_size": 100, "train.epochs": 1_000, "optim.lr": 0.05},
}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run on ten blobs: gradient descent, with all eigenvalues at the end."""
    settings: Overrides = {
        "experiment": "s_outliers",
        "model.name": "mlp",
        "model.mlp.hidden": (30, 30),
        "optim.sgd.momentum": 0.0,
        "schedule.name": "constant",
        "checkpoint.keep": "end",
        "measure.performance": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.full_spectrum": "end",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {"model.mlp.hidden": (4, 4)},
        "small": {"model.mlp.hidden": (12, 12)},
        "paper": {},
    }
    return override(base_config(scale), settings | BLOBS | ALGORITHMS["GD"] | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every row of table 1 with every seed, of weights and of blobs."""
    # Seeds 0 to 2 were the pilots: docs/numerics.md, power.
    seeds = (0,) if scale == "smoke" else tuple(range(10, 15))
    entries = []
    for (algorithm, activation, covariance), blobs in ROWS.items():
        if scale == "small":
            blobs = tuple(k for k in blobs if k <= 10 and not (activation == "relu" and algorithm == "SGD" and k == 2))
        if scale == "smoke":
            blobs = (2, 5) if (algorithm, activation) == ("GD", "relu") else ()
        for k in blobs:
            for seed in seeds:
                entry: Overrides = {
                    "model.mlp.activation": activation,
                    "data.blobs.spread": covariance**0.5,
                    "data.blobs.num_classes": k,
                    "data.blobs.seed": seed,
                    "seed": seed,
                }
                steps = {"train.epochs": 20} if scale == "smoke" else {}
                entries.append(entry | ALGORITHMS[algorithm] | steps)
    return entries
