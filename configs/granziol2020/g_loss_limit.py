"""A perceptron that separates its data: *Flatness is a False Friend*, section 3.1 and appendix A.

    make sweep CONFIG=g_loss_limit:small

smoke: seconds, 1 run. small: scikit-learn's digits, P = 2,260, 3 runs. paper: 5,000 images of MNIST, P = 79,510,
10 runs, after `make data DATASETS=mnist`.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

# At scale paper seeds 0 to 9 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": (0, 1, 2), "paper": tuple(range(10, 20))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without L2, trained until it separates the training data.

    The paper names neither network nor data.
    """
    settings: Overrides = {
        "experiment": "g_loss_limit",
        "model.name": "mlp",
        "model.mlp.hidden": (30,),
        "optim.lr": 0.1,
        "schedule.name": "constant",
        "data.scaling": "unit",
        "checkpoint.keep": "end",
        "measure.performance": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.loss_limit": "end",
        "measure.scales": (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0),
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {
            "train.epochs": 3,
            "train.batch_size": 50,
            "data.train_size": 100,
            "measure.scales": (1.0, 2.0, 4.0, 8.0),
        },
        "small": {"train.epochs": 300},
        "paper": {
            "data.name": "mnist",
            "data.train_size": 5_000,
            "data.validation_size": 5_000,
            "model.mlp.hidden": (100,),
            "train.epochs": 200,
            "measure.batch_size": 1_000,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every seed."""
    return product({"seed": SEEDS[scale]})
