"""Every eigenvalue at the start and at the end: *Empirical Analysis of the Hessian*, sections 2.1 and 2.2, figure 1.

    make sweep CONFIG=s_spectrum:small

smoke: seconds, 1 run. small: scikit-learn's digits, P = 3,190, 3 runs. paper: Gaussian blobs, P = 4,270, 10 runs.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

# The network of section 3.1 on its data: the paper's "two hidden layer network with a total of 5K parameters" is on
# data that it does not name, and MNIST's 784 inputs would leave such a network six hidden units.
BLOBS: Overrides = {
    "data.name": "blobs",
    "data.blobs.dimension": 100,
    "data.blobs.num_classes": 10,
    "data.blobs.num_examples": 2_000,
    "data.blobs.spread": 1.0,
    "data.scaling": "overall",
    "data.validation_fraction": 0.0,
    "data.test_fraction": 0.5,
}
# Plain gradient descent with a constant step, until the loss hardly falls; the paper gives no step size.
DESCENT: Overrides = {
    "train.batch_size": 0,
    "optim.lr": 0.1,
    "optim.sgd.momentum": 0.0,
    "schedule.name": "constant",
}
# At scale paper seeds 0 to 9 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": (0, 1, 2), "paper": tuple(range(10, 20))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run with all eigenvalues of H, G and R = H - G at the start, during training, and at the
    end.
    """
    settings: Overrides = {
        "experiment": "s_spectrum",
        "model.name": "mlp",
        "model.mlp.hidden": (30, 30),
        "checkpoint.keep": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.full_spectrum": "start, at 0.1",
        "measure.exact_operators": ("hessian", "gauss_newton", "residual"),
        # In float32 the smallest eigenvalues of G are noise of 1e-5 of the largest once the loss is 1e-4.
        "measure.exact_float64": True,
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {"model.mlp.hidden": (4, 4), "train.epochs": 20, "data.train_size": 100, "data.scaling": "unit"},
        "small": {
            "train.epochs": 5_000,
            "data.scaling": "unit",
            "data.validation_fraction": 0.0,
            "data.train_size": 1_000,
        },
        "paper": BLOBS | {"train.epochs": 10_000},
    }
    return override(base_config(scale), settings | DESCENT | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every seed, of weights and of blobs."""
    seeds = SEEDS[scale]
    if scale == "paper":
        return [{"seed": seed, "data.blobs.seed": seed} for seed in seeds]
    return product({"seed": seeds})
