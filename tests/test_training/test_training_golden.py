"""A step of every model family with every optimiser, against stored numbers.

A change here means that runs made before cannot be continued or compared. Where it is meant, say so in the change log
and rewrite the numbers: `.venv/bin/python tests/test_training/test_training_golden.py`.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hessflat import models
from hessflat.training.augmentation import mixup
from hessflat.training.optimisation import OPTIMISERS, WEIGHT_DECAY_MASKS, cross_entropy, make_targets
from hessflat.training.step import Batch, make_gradient, sam_perturb, update_average

pytestmark = pytest.mark.exact

STORED = Path(__file__).with_name("golden.json")
FAMILIES = {
    "softmax_regression": {},
    "mlp": {"hidden": (5,)},
    "deep_linear": {"hidden": (4, 3)},
    "coordinate_network": {"hidden": (6, 5, 4)},
    "two_convolutions": {"width": 2, "kernel": 3, "hidden": 5, "padding": "same"},
    "cnn9": {"width": 2, "last_padding": "same"},
    "alexnet": {"width": 2, "head": (6, 5), "poolings": 2},
    "vgg": {"depth": 11, "width": 2, "head": (6,), "poolings": 3},
    "resnet": {"depth": 10, "width": 2},
    "preresnet": {"depth": 11, "width": 2},
    "wide_resnet": {"depth": 10, "width": 2, "widening": 2},
}
QUICK = ("softmax_regression", "mlp", "deep_linear", "coordinate_network")
# How each takes a step: optimiser, learning rate, radius of SAM, and whether the mean of the iterates counts.
STEPS = {
    "sgd": ("sgd", 0.05, 0.0, False),
    "sam": ("sgd", 0.05, 0.05, False),
    "adam": ("adam", 1e-3, 0.0, False),
    "adamw": ("adamw", 1e-3, 0.0, False),
    "gadam": ("adamw", 1e-3, 0.0, True),
}


def numbers(family):
    """The smoothed loss of the mixed batch, ‖w‖ and one fixed combination of all weights, after a step of each kind."""
    rng = np.random.default_rng(0)
    model = models.build(family, 3, **FAMILIES[family])
    images = jnp.array(rng.normal(size=(6, 8, 8, 1)), np.float32)
    batch = Batch(*mixup(jax.random.key(1), images, make_targets(jnp.array(rng.integers(0, 3, 6)), 3, 0.1), 0.4))
    params, batch_stats = jax.jit(model.init)(jax.random.key(0), images)
    gradient = jax.jit(make_gradient(model, cross_entropy))
    first, _ = gradient(params, batch_stats, batch)
    uphill, _ = gradient(sam_perturb(params, first, 0.05), batch_stats, batch)
    apply = jax.jit(lambda params: model.apply(params, batch_stats, images, True)[0])
    return {
        name: _after(params, uphill if step[2] else first, step, apply, batch.targets) for name, step in STEPS.items()
    }


def _after(params, direction, step, apply, targets):
    name, rate, _, averages = step

    @jax.jit
    def stepped(params, direction):
        # With its usual ε a first step of Adam is the sign of the gradient, which for some weights is rounding.
        settings = {} if name == "sgd" else {"eps": 1e-3}
        optimiser = OPTIMISERS[name](lambda count: rate, 0.01, WEIGHT_DECAY_MASKS["all"], **settings)
        updates, _ = optimiser.update(direction, optimiser.init(params), params)
        new = optax.apply_updates(params, updates)
        return update_average(params, new, jnp.int32(2)) if averages else new

    after = stepped(params, direction)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(after)]).astype(np.float64)
    loss = float(jnp.mean(optax.softmax_cross_entropy(apply(after), targets)))
    return [loss, float(np.linalg.norm(flat)), float(flat @ np.cos(np.arange(flat.size)))]


def test_every_family_has_golden_numbers():
    assert set(FAMILIES) == {*models.MODELS} - {*models.TOKEN_MODELS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in FAMILIES]
)
def test_golden_numbers(family):
    stored = json.loads(STORED.read_text())[family]
    for step, found in numbers(family).items():
        if not np.allclose(found, stored[step], rtol=2e-4, atol=2e-4):
            pytest.fail(
                f"{step} for {family} gives {found}, stored are {stored[step]}. If the change is meant, note it in "
                "CHANGELOG.md and run: .venv/bin/python tests/test_training/test_training_golden.py"
            )


if __name__ == "__main__":
    numbers_of_all = {family: numbers(family) for family in FAMILIES}
    lines = [f"{json.dumps(family)}: {json.dumps(found)}" for family, found in numbers_of_all.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
