"""Losses of clean examples, with and without the smoothing of labels, beside their formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models
from hessflat.measures import performance
from hessflat.measures.eval_state import model_functions
from hessflat.training.optimisation import LOSSES
from hessflat.utils import hardware


@pytest.mark.parametrize("batch_size", [0, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_losses_with_and_without_smoothed_labels(smoothing, batch_size):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (30, 5)), jax.random.randint(keys[1], (30,), 0, 3)
    splits = {
        name: {"inputs": inputs[part], "labels": labels[part]}
        for name, part in {"train": slice(0, 20), "test": slice(20, None)}.items()
    }
    model = models.build("softmax_regression", 3)
    params, statistics = model.init(keys[2], inputs[:1])
    params = jax.tree.map(lambda x: x + 0.5, params)
    state = eval_state(model, params, statistics, splits, label_smoothing=smoothing, batch_size=batch_size)
    found = measured(state, "performance").scalars
    plain, smoothed = {}, {}
    for name, split in splits.items():
        logits = np.asarray(model.apply(params, statistics, split["inputs"], False)[0], float)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        right = -log_p[np.arange(len(log_p)), split["labels"]]
        plain[name], smoothed[name] = right.mean(), ((1 - smoothing) * right - smoothing * log_p.mean(1)).mean()
        assert found[f"{name}_loss"] == pytest.approx(plain[name], rel=1e-5)
        assert found[f"smoothed_{name}_loss"] == pytest.approx(smoothed[name], rel=1e-5)
    assert found["gap_loss"] == pytest.approx(abs(plain["train"] - plain["test"]), rel=1e-4)
    assert found["smoothed_gap_loss"] == pytest.approx(abs(smoothed["train"] - smoothed["test"]), rel=1e-4)


@pytest.mark.exact
def test_examples_that_do_not_divide_are_shared_out():
    """36 examples on 8 devices take at most 1.3 / 8 of the operations of one, and give the same.

    So they do where each device has them all, and where each holds its own alone.
    """
    model = models.build("mlp", 3, hidden=(64,))
    inputs = np.asarray(jax.random.normal(jax.random.key(0), (36, 8)))
    split = {"inputs": inputs, "labels": np.arange(36, dtype=np.int32) % 3}
    arguments = (0.0, *model.init(jax.random.key(1), inputs[:1]))
    functions = (model_functions(model, "cross_entropy").logits, LOSSES["cross_entropy"].function)
    mesh = hardware.make_mesh(8)
    totals, flops = [], []
    for devices, held in (
        (None, jax.tree.map(jnp.asarray, split)),
        (mesh, hardware.replicate(split, mesh)),
        (mesh, hardware.hold_examples(split, mesh)),
    ):
        given = ((*functions, devices), hardware.replicate(arguments, devices), {"train": held})
        flops.append(performance._totals_by_split.lower(*given).compile().cost_analysis()["flops"])
        totals.append(performance._totals_by_split(*given)["train"])
    for operations, (loss, right) in zip(flops[1:], totals[1:], strict=True):
        assert operations <= 1.3 * flops[0] / 8
        assert loss == pytest.approx(float(totals[0][0]), rel=1e-5)
        np.testing.assert_array_equal(right, totals[0][1])
