"""Small against large batches: *Empirical Analysis of the Hessian*, section 3.3, figures 4 and 6.

    make sweep CONFIG=s_batch:small

smoke: seconds, 2 runs. small: scikit-learn's digits, P = 1,910, 6 runs. paper: MNIST after `make data DATASETS=mnist`,
P = 21,840, 20 runs.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

BATCHES = (10, 512)
# At scale paper seeds 0 to 9 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": (0, 1, 2), "paper": tuple(range(10, 20))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run of the paper's convolutional network with a constant learning rate, measured at the
    end.

    Both batch sizes take the same number of steps. The paper gives neither learning rate nor number of steps, but
    states that both batch sizes converge. They do with 0.05; with 0.1 small batches still increase the loss to 0.1
    after it has been below 1e-3. 512 of 1,000 examples make an epoch of two steps, of 512 and of 488 examples.
    """
    settings: Overrides = {
        "experiment": "s_batch",
        "model.name": "two_convolutions",
        "train.batch_size": 10,
        "optim.lr": 0.05,
        "optim.sgd.momentum": 0.0,
        "schedule.name": "constant",
        "data.train_size": 1_000,
        "data.validation_fraction": 0.0,
        "checkpoint.keep": "end",
        "measure.performance": "start, at 0.01, at 0.03, at 0.1, at 0.3",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.spectrum_edges": "end",
        "measure.operators": ("hessian",),
        "measure.exact_float64": True,
    }
    digits: Overrides = {
        "data.scaling": "overall",
        "model.two_convolutions.kernel": 3,
        "model.two_convolutions.padding": "same",
        "model.two_convolutions.width": 6,
        "model.two_convolutions.hidden": 20,
    }
    at_scale: dict[str, Overrides] = {
        "smoke": digits
        | {
            "data.train_size": 40,
            "model.two_convolutions.width": 1,
            "model.two_convolutions.hidden": 4,
            "train.batch_size": 4,
            "train.steps": 20,
            "measure.largest": 20,
            "measure.smallest_share": 0.05,
            "measure.full_spectrum": "end",
        },
        "small": digits | {"train.steps": 2_000, "measure.smallest_share": 0.05},
        "paper": {
            "data.name": "mnist",
            "data.scaling": "overall",
            "train.steps": 1_500,
            # A product of this network's H takes as long as five steps with the large batch.
            "measure.largest": 40,
            "measure.smallest_share": 0.001,
            "measure.edge_products": 400,
            "measure.rtol": 1e-2,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: both batch sizes with every seed; all eigenvalues of the first at scale small."""
    if scale == "smoke":
        return product({"train.batch_size": (4, 20), "seed": SEEDS[scale]})
    seeds: list[Overrides] = [{"seed": seed} for seed in SEEDS[scale]]
    seeds[0] |= {"measure.full_spectrum": "end" if scale == "small" else "never"}
    return product({"train.batch_size": BATCHES}, seeds)
