"""Losses of clean examples, with and without the smoothing of labels, beside their formula in float64."""

import jax
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models


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
