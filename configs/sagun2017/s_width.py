"""One hidden layer of increasing width on 1,000 examples: *Empirical Analysis of the Hessian*, §3.2, figures 3 and 5.

    make sweep CONFIG=s_width:small

smoke: seconds, 2 runs. small: scikit-learn's digits, 10 to 40 hidden units, P = 760 to 3,010, 12 runs. paper: MNIST
after `make data DATASETS=mnist`, 10 to 70 hidden units, P = 7,960 to 55,660, 40 runs.
"""

from ml_collections import ConfigDict

from configs.sagun2017.s_spectrum import DESCENT
from hessflat.config import Overrides, override
from hessflat.runs.schema import base_config

WIDTHS = {"smoke": (4, 6), "small": (10, 20, 30, 40), "paper": (10, 30, 50, 70)}
# At scale paper seeds 0 to 9 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": (0, 1, 2), "paper": tuple(range(10, 20))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run of gradient descent on 1,000 fixed examples, with both ends of the spectrum at the
    end.

    The paper names neither algorithm nor learning rate here. Gradient descent has no mini-batch noise, so seeds differ
    in the initial weights only. At a learning rate of 0.1 the loss decreases for all widths.
    """
    settings: Overrides = {
        "experiment": "s_width",
        "model.name": "mlp",
        "model.mlp.hidden": (10,),
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
    at_scale: dict[str, Overrides] = {
        "smoke": {"data.train_size": 100, "train.epochs": 20, "measure.largest": 20, "measure.smallest_share": 0.05},
        # (C - 1) h negative eigenvalues are 11 % of so small a network.
        "small": {"data.scaling": "unit", "train.epochs": 5_000, "measure.smallest_share": 0.05},
        "paper": {
            "data.name": "mnist",
            "data.scaling": "overall",
            "train.epochs": 3_000,
            # A pair takes the more products the smaller it is beside the largest; at h = 70 these take some 1,100.
            "measure.smallest_share": 0.002,
            "measure.edge_products": 1_600,
            "measure.rtol": 1e-2,
        },
    }
    return override(base_config(scale), settings | DESCENT | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every width with every seed; all eigenvalues where P permits (at scale paper once)."""
    entries: list[Overrides] = []
    for width in WIDTHS[scale]:
        for seed in SEEDS[scale]:
            known = scale != "paper" or (width == 10 and seed == SEEDS[scale][0])
            entries.append(
                {"model.mlp.hidden": (width,), "seed": seed, "measure.full_spectrum": "end" if known else "never"}
            )
    return entries
