"""A deep linear network under the exponential loss: *Flatness is a False Friend*, section 2.

    make sweep CONFIG=g_deep_linear:small

smoke: seconds, 2 runs. small: exp(w₁w₂w₃X), P = 3, 15 runs. paper: the same with 30 seeds, 90 runs.

The paper does not train this network; learning rate, steps, L2 and X are our choice. X = 2 distinguishes X² from |X|,
and the loss ends below 1e-5 without L2.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

L2 = {"smoke": (0.0, 1e-3), "small": (0.0, 1e-4, 1e-3), "paper": (0.0, 1e-4, 1e-3)}
# At scale paper other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": tuple(range(5)), "paper": tuple(range(10, 40))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run of gradient descent without L2.

    Initial weights are PyTorch's, uniform on (−1, 1), whose product has either sign.
    """
    settings: Overrides = {
        "experiment": "g_deep_linear",
        "model.name": "deep_linear",
        "model.deep_linear.hidden": (1, 1),
        "data.name": "point",
        "data.point.x": 2.0,
        "data.scaling": "raw",
        "data.validation_fraction": 0.0,
        "optim.lr": 0.1,
        "optim.sgd.momentum": 0.0,
        "schedule.name": "constant",
        "train.loss": "exponential",
        "train.batch_size": 0,
        "train.epochs": 20_000,
        "checkpoint.keep": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.full_spectrum": "growth",
        "measure.exact_float64": True,
        "measure.reparameterised": "start",
        "measure.scales": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
    }
    at_scale: dict[str, Overrides] = {"smoke": {"train.epochs": 2_000}, "small": {}, "paper": {}}
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every L2 with every seed."""
    return product({"optim.l2": L2[scale], "seed": SEEDS[scale]})
