"""The largest Jacobian norm of a sample and its supremum: *On progressive sharpening*, section 4, theorems 4.4 to 4.6.

    make sweep CONFIG=m_lipschitz:small

smoke: seconds, 1 run. small: a square mapped into 16 dimensions, 15 runs. paper: a square and a cube mapped into 32
dimensions, larger networks and samples, 60 runs.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

# With 0.2 some runs diverge.
RATES = {"smoke": (0.1,), "small": (0.01, 0.03, 0.1), "paper": (0.01, 0.03, 0.1)}
# At scale paper seeds 0 to 9 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": tuple(range(5)), "paper": tuple(range(10, 20))}
LATENT = {"smoke": (2,), "small": (2,), "paper": (2, 3)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a tanh network on real targets.

    The theorems have no experimental setting. They assume a network with Lipschitz first and second derivatives, which
    tanh has and ReLU does not. They assume data that a Lipschitz immersion pushes forward from the uniform cube,
    jointly for inputs and targets; real targets satisfy this, classes do not. The learning rate is constant, small or
    large: the paper discusses both where it expects the maximum of a sample to be below the supremum.
    """
    settings: Overrides = {
        "experiment": "m_lipschitz",
        "model.name": "mlp",
        "model.mlp.hidden": (32, 32),
        "model.mlp.activation": "tanh",
        "data.name": "generator",
        "data.scaling": "raw",
        "data.validation_fraction": 0.0,
        "train.loss": "squared_error",
        "train.batch_size": 32,
        "schedule.name": "constant",
        "checkpoint.keep": "end",
        "measure.performance": "start",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.lipschitz": "end",
        "measure.sample_sizes": tuple(2**power for power in range(2, 13)),
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {
            "model.mlp.hidden": (8,),
            "train.epochs": 20,
            "measure.draws": 5_000,
            "measure.grid": 20,
        },
        "small": {"train.epochs": 300},
        "paper": {
            "model.mlp.hidden": (64, 64, 64),
            "data.generator.dimension": 32,
            "data.generator.num_examples": 1_024,
            "data.generator.test_examples": 4_096,
            "train.epochs": 300,
            "measure.draws": 500_000,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every dimension of the cube with every learning rate and seed; the data differ by
    seed.
    """
    seeds: list[Overrides] = [
        {"seed": seed, "data.generator.seed": seed, "measure.seed": seed} for seed in SEEDS[scale]
    ]
    sides: list[Overrides] = [
        {"data.generator.latent": latent, "measure.grid": {2: 300, 3: 50}[latent]} if scale == "paper" else {}
        for latent in LATENT[scale]
    ]
    return product(sides, {"optim.lr": RATES[scale]}, seeds)
