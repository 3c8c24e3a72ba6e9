"""Inputs multiplied by a factor: *On progressive sharpening*, C.2, figures 30 and 31.

    make sweep CONFIG=m_input_scale:small

smoke: seconds, 2 runs. small: digits of scikit-learn in place of CIFAR-10, layers of 50 units, 156 runs. paper:
CIFAR-10 after `make data DATASETS=cifar10`, layers of 200 units, 30 runs.

The paper does not give the following; these are our choices. A three-layer network has three layers of weights, so two
hidden layers. Curvature and Jacobian norms are measured on the first 2,500 of the 5,000 training examples, as many as
in its section 5. Jacobian norms are those of the logits and of the softmaxed model.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

FACTORS = (0.5, 1.0, 1.5)
ACTIVATIONS = ("relu", "tanh")
# At scale small other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"small": tuple(range(10, 36)), "paper": (0, 1, 2, 3, 4)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a ReLU network on unscaled inputs: full-batch gradient descent without momentum or
    regulariser.
    """
    settings: Overrides = {
        "experiment": "m_input_scale",
        "model.name": "mlp",
        "data.scaling": "pixelwise",
        "data.scaling_over": "stored",
        "data.order": "stored",
        "data.validation_fraction": 0.0,
        "train.batch_size": 0,
        "train.steps": 300,
        "optim.lr": 0.2,
        "optim.sgd.momentum": 0.0,
        "schedule.name": "constant",
        "checkpoint.keep": "end",
        "measure.operators": ("hessian",),
        "measure.spectra": "never",
        "measure.rtol": 1e-2,
    }
    times = {"smoke": "every 5 steps", "small": "every 10 steps", "paper": "every 20 steps"}[scale]
    settings |= {f"measure.{name}": times for name in ("performance", "sharpness", "jacobian", "layer_input_norms")}
    at_scale: dict[str, Overrides] = {
        "smoke": {"model.mlp.hidden": (8, 8), "data.train_size": 100, "train.steps": 10},
        "small": {"model.mlp.hidden": (50, 50), "data.train_size": 1_000},
        "paper": {
            "model.mlp.hidden": (200, 200),
            "data.name": "cifar10",
            "data.train_size": 5_000,
            "measure.examples": 2_500,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every activation with every factor; trials differ in the initial weights."""
    if scale == "smoke":
        return product({"data.input_scale": FACTORS[:2]})
    return product({"model.mlp.activation": ACTIVATIONS, "data.input_scale": FACTORS, "seed": SEEDS[scale]})
