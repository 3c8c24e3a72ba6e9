"""One network's Hessian by ten to a hundred Lanczos steps, and every eigenvalue of it exactly.

    make sweep CONFIG=h_lanczos_steps:small

smoke: seconds, 2 runs. small: a perceptron on scikit-learn's digits, P = 2,260, 48 runs.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_logistic import DIGITS
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small")

# The last is what *Flatness is a False Friend* takes, app. D.
STEPS = {"smoke": (5, 10), "small": (10, 20, 30, 50, 70, 100)}
# A rule was changed after seeds 20 to 22. Numbers that are the same in every seed, as in 30 to 32, take six to decide.
SEEDS = {"smoke": (0,), "small": tuple(range(40, 48))}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run, measured at its end from one probe, as in the paper."""
    settings: Overrides = {
        "experiment": "h_lanczos_steps",
        "model.name": "mlp",
        "optim.lr": 0.03,
        "optim.l2": 5e-4,
        "schedule.name": "linear_decay",
        "data.scaling": "unit",
        "checkpoint.keep": "end",
        "measure.performance": "end",
        "measure.jacobian": "never",
        "measure.spectra": "end",
        "measure.operators": ("hessian",),
        "measure.probes": 1,
        "measure.trace_probes": 1,
        "measure.full_spectrum": "end",
        "measure.exact_float64": True,
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {"model.mlp.hidden": (4,), "train.epochs": 2},
        "small": DIGITS | {"model.mlp.hidden": (30,), "train.epochs": 100},
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every number of steps with every seed, of weights, of the split and of the probe."""
    seeds = [{"seed": seed, "data.split_seed": seed, "measure.seed": seed} for seed in SEEDS[scale]]
    return product({"measure.lanczos_steps": STEPS[scale]}, seeds)
