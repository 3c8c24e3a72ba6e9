"""How steep a network must be to fit its targets, and how steep it is: *On progressive sharpening*, section 5, eq. 11.

    make sweep CONFIG=m_lower_bound:small

smoke: seconds, 2 runs. small: scikit-learn's digits and a perceptron, 60 runs, a minute on two cores.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small")

# Closer targets ask for less of a slope.
SMOOTHING = {"smoke": (0.0, 0.5), "small": (0.0, 0.25, 0.5, 0.75)}
# At scale small other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": tuple(range(10, 25))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without label smoothing. The paper runs no experiment on the equation by itself."""
    settings: Overrides = {
        "experiment": "m_lower_bound",
        "model.name": "mlp",
        "model.mlp.hidden": (64, 64),
        "data.scaling": "pixelwise",
        "data.validation_fraction": 0.0,
        "data.train_size": 1_000,
        "optim.lr": 0.05,
        "schedule.name": "constant",
        "train.batch_size": 100,
        "train.epochs": 100,
        "measure.pair_slopes": "growth",
        "measure.flatness_examples": 0,
        "measure.jacobian": "growth",
        "measure.spectra": "never",
        "checkpoint.keep": "end",
    }
    smoke: Overrides = {"model.mlp.hidden": (6,), "data.train_size": 60, "train.batch_size": 20, "train.epochs": 3}
    return override(base_config(scale), settings | (smoke if scale == "smoke" else {}))


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every smoothing with every seed."""
    return product({"train.label_smoothing": SMOOTHING[scale], "seed": SEEDS[scale]})
