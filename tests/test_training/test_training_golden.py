"""One step of every model family with every optimiser, against stored numbers.

A change here means that runs made before cannot be continued or compared. Where it is meant, say so in the change log
and rewrite the numbers: `.venv/bin/python tests/test_training/test_training_golden.py`.
"""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessflat import config, schema
from hessflat.measures.performance import losses_and_accuracies
from hessflat.models import MODELS
from hessflat.training.program import hyper_of, make_program

STORED = Path(__file__).with_name("golden.json")
FAMILIES = {
    "softmax_regression": {},
    "mlp": {"hidden": (5,)},
    "deep_linear": {"hidden": (4, 3)},
    "two_convolutions": {"width": 2, "kernel": 3, "hidden": 5, "padding": "same"},
    "cnn9": {"width": 2, "last_padding": "same"},
    "alexnet": {"width": 2, "head": (6, 5), "poolings": 2},
    "vgg": {"depth": 11, "width": 2, "head": (6,), "poolings": 3},
    "resnet": {"width": 2},
    "preresnet": {"depth": 11, "width": 2},
    "wide_resnet": {"depth": 10, "width": 2, "widening": 2},
    "coordinate_network": {"hidden": (6, 5, 4)},
}
OPTIMISERS = {
    "sgd": {"optim.name": "sgd"},
    "sam": {"optim.name": "sgd", "optim.sam_radius": 0.05},
    "adam": {"optim.name": "adam", "optim.lr": 1e-3},
    "adamw": {"optim.name": "adamw", "optim.lr": 1e-3},
    "gadam": {
        "optim.name": "adamw",
        "optim.lr": 1e-3,
        "schedule.name": "iterate_averaging",
        "train.average_from": 1,
    },
}
COMMON = {
    "optim.l2": 0.01,
    "train.batch_size": 6,
    "train.epochs": 3,
    "train.label_smoothing": 0.1,
    "train.mixup": 0.4,
}


def numbers(family, optimiser):
    """The loss, ‖w‖ and one fixed combination of all weights, after two steps."""
    rng = np.random.default_rng(0)
    train = {
        "inputs": jnp.array(rng.normal(size=(6, 8, 8, 1)), np.float32),
        "labels": jnp.array(rng.integers(0, 3, 6), np.int32),
    }
    settings = {"model.name": family} | {f"model.{family}.{name}": value for name, value in FAMILIES[family].items()}
    chosen = config.override(schema.base_config("smoke"), COMMON | settings | OPTIMISERS[optimiser])
    program = make_program(schema.validate(chosen), 3, train["inputs"])
    hyper = hyper_of(chosen)
    state = program.advance(program.init(hyper), hyper, train, 0, 2)
    params, statistics = program.evaluated(state, train)
    loss, _ = losses_and_accuracies(program.model, params, statistics, {"train": train}, None)["train"]
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]).astype(np.float64)
    return [loss, float(np.linalg.norm(flat)), float(flat @ np.cos(np.arange(flat.size)))]


def test_every_family_has_golden_numbers():
    assert set(FAMILIES) == set(MODELS)


@pytest.mark.parametrize(
    ("family", "optimiser"),
    [
        pytest.param(family, optimiser, marks=pytest.mark.slow if optimiser != "sgd" else ())
        for family, optimiser in itertools.product(FAMILIES, OPTIMISERS)
    ],
)
def test_golden_numbers(family, optimiser):
    stored = json.loads(STORED.read_text())[f"{family} {optimiser}"]
    found = numbers(family, optimiser)
    if not np.allclose(found, stored, rtol=2e-4, atol=2e-4):
        pytest.fail(
            f"a step of {family} with {optimiser} gives {found}, stored are {stored}. If the change is meant, note it "
            "in CHANGELOG.md and run: .venv/bin/python tests/test_training/test_training_golden.py"
        )


if __name__ == "__main__":
    pairs = itertools.product(FAMILIES, OPTIMISERS)
    found = {f"{family} {optimiser}": numbers(family, optimiser) for family, optimiser in pairs}
    lines = [f"{json.dumps(name)}: {json.dumps([float(f'{x:.7g}') for x in values])}" for name, values in found.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
