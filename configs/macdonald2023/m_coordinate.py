"""Coordinate networks fitted to eight points from high and from low frequencies: *On progressive sharpening*, C.3.

    make sweep CONFIG=m_coordinate:small

This is the setting of figure 32 and tables 1 and 2. smoke: seconds, 5 runs. small: layers of 64 units, 5 trials, 25
runs. paper: layers of 256 units, 10 trials, 50 runs of up to 100,000 steps.

The paper does not give the following; these are our choices:

- The points. "8 points in R^2" are (x, y) here: x evenly spaced on [0, 1], y normal of standard deviation 2.5, drawn
  anew for every trial. With fixed points, the Jacobian norm of the ReLU network differed by 1 % between the two initial
  weights, by 18 % in the paper's table. With targets between -1 and 1 it was 12; the table has 43.
- The loss is the mean over points, as in PyTorch. With the sum, the sharpness would be eight times as large.
- The width of the Gaussian exp(-x² / 2σ²): σ = 0.03, for which sharpness has the magnitude of table 1. At 0.1 it was a
  tenth of table 1's. At 0.02 two of four networks from low frequencies ended with constant outputs.
- The low-frequency initialisation of the Gaussian network: normal first weights of standard deviation 0.035, whose norm
  over 256 units is the paper's 0.56.
- Pretraining on sin(6πx): 2,000 steps on 64 points of [0, 1], which reduces the squared error to about 1e-4.
- Sharpness is λ_max of the Hessian of that loss, the Jacobian norm the largest over the eight points, both at the end.

The spread of y and σ were chosen by comparing short runs with the paper's tables, some on the points of the first four
trials. Agreement of these numbers with the paper is therefore no test of them.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override
from hessflat.runs.schema import base_config

# Steps of the Gaussian network, of the ReLU network, and of its pretraining.
STEPS = {"smoke": (20, 20, 20), "small": (10_000, 50_000, 2_000), "paper": (10_000, 100_000, 2_000)}
# At scale paper trials 0 to 9 were the pilots: docs/numerics.md, power.
TRIALS = {"smoke": (0,), "small": (0, 1, 2, 3, 4), "paper": tuple(range(10, 20))}
LOW_STD = 0.035


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a Gaussian network from high frequencies: gradient descent with momentum 0.9, measured at
    the end.
    """
    settings: Overrides = {
        "experiment": "m_coordinate",
        "model.name": "coordinate_network",
        "model.coordinate_network.sigma": 0.03,
        "data.name": "scattered",
        "data.scaling": "raw",
        "data.order": "stored",
        "data.validation_fraction": 0.0,
        "train.loss": "squared_error",
        "train.batch_size": 0,
        "train.steps": STEPS[scale][0],
        "optim.lr": 1e-4,
        "schedule.name": "constant",
        "checkpoint.keep": "end",
        "measure.performance": "end",
        "measure.sharpness": "end",
        "measure.operators": ("hessian",),
        "measure.jacobian": "end",
        "measure.layer_input_norms": "start, end",
        "measure.predictions": "end",
        "measure.spectra": "never",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {"model.coordinate_network.hidden": (8, 8, 8)},
        "small": {"model.coordinate_network.hidden": (64, 64, 64)},
        "paper": {},
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: for each trial both networks from both initialisations, and the pretraining of one."""
    _, relu, pretraining = STEPS[scale]
    pretrained: Overrides = {
        "data.name": "sine",
        "data.sine.frequency": 6.0,
        "data.sine.num_examples": 64,
        "data.sine.start": 0.0,
        "optim.name": "adam",
        "train.steps": pretraining,
    }
    # A run names its pretraining by what that has in its place, the defaults of what it leaves out among it.
    left_out: Overrides = {"data.scattered.spread": 1.0, "data.scattered.seed": 0}
    of_relu: Overrides = {"model.coordinate_network.activation": "relu", "train.steps": relu}
    high = ",".join(f"{name}={value}" for name, value in (pretrained | left_out).items())
    entries: list[Overrides] = []
    for trial in TRIALS[scale]:
        points: Overrides = {"data.scattered.spread": 2.5, "data.scattered.seed": trial, "seed": trial}
        entries += [
            points,
            points | {"model.coordinate_network.first_std": LOW_STD},
            of_relu | pretrained | {"seed": trial},
            points | of_relu | {"train.init_from": high},
            points | of_relu,
        ]
    return entries
