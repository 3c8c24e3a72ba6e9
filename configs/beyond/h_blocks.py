"""A transformer on sentences of a grammar and a convolutional network on digits, by Adam and by SGD, block by block.

    make sweep CONFIG=h_blocks:small

smoke: seconds, 2 runs of a transformer of one layer. small: a transformer of four layers on 1,024 rows of words, and a
network of two convolutions on 719 of scikit-learn's digits, 16 runs, some minutes.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small")

# Seeds 10 to 13 were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": (20, 21, 22, 23)}

WORDS: Overrides = {
    "model.name": "transformer",
    "data.name": "grammar",
    "data.scaling": "raw",
    "data.validation_fraction": 0.0,
    "train.epochs": 10,
}
DIGITS: Overrides = {
    "model.name": "two_convolutions",
    "model.two_convolutions.padding": "same",
    "data.name": "digits",
    "data.scaling": "standardised",
    "data.validation_fraction": 0.0,
    "data.train_fraction": 0.4,
    "data.test_fraction": 0.5,
    "train.epochs": 14,
}
# Each at the learning rate with the lowest training loss of seed 0: on words of 3e-3 and 0.01 (Adam), of 0.03, 0.1 and
# 0.2 (SGD); on digits of 1e-3, 3e-3 and 0.01 (Adam), of 0.01, 0.03 and 0.1 (SGD).
ADAM: Overrides = {"optim.name": "adam", "optim.lr": 3e-3}
SGD: Overrides = {"optim.name": "sgd", "optim.lr": 0.2}
ADAM_ON_DIGITS: Overrides = {"optim.name": "adam", "optim.lr": 0.01}
SGD_ON_DIGITS: Overrides = {"optim.name": "sgd", "optim.lr": 0.03}


def get_config(scale: str = "small") -> ConfigDict:
    """One run of the transformer, by Adam."""
    settings = {
        "experiment": "h_blocks",
        "train.batch_size": 32,
        "checkpoint.keep": "end",
        "measure.performance": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.block_spectra": "end",
        "measure.examples": 64,
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {"train.epochs": 1, "measure.block_steps": 4, "measure.examples": 8},
        "small": {},
    }
    return override(base_config(scale), WORDS | ADAM | settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """Both networks by both optimisers, with every seed."""
    if scale == "smoke":
        narrow = {
            "model.transformer.layers": 1,
            "model.transformer.width": 8,
            "data.grammar.num_examples": 64,
            "data.grammar.test_examples": 16,
        }
        kinds = [narrow | ADAM, narrow | SGD]
    else:
        kinds = [WORDS | ADAM, WORDS | SGD, DIGITS | ADAM_ON_DIGITS, DIGITS | SGD_ON_DIGITS]
    return [kind | {"seed": seed} for kind in kinds for seed in SEEDS[scale]]
