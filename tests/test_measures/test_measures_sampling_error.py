"""λ_max of the first examples with its error, beside that of all."""

import jax
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models


def state_of(model, number, examples, shape, **protocol):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (number, *shape)), jax.random.randint(keys[1], (number,), 0, 3)
    params, batch_stats = model.init(keys[2], inputs[:1])
    split = {"inputs": inputs, "labels": labels}
    return eval_state(model, params, batch_stats, {"train": split, "test": split}, examples=examples, **protocol)


@pytest.mark.slow
def test_the_whole_is_within_its_error_of_a_part():
    model = models.build("softmax_regression", 3)
    found = measured(state_of(model, 400, 100, (5,)), "sampling_error").scalars
    state = state_of(model, 400, 0, (5,))
    x = np.asarray(state.splits["train"]["inputs"], float)
    (layer,) = state.params.values()
    f = x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)
    p = np.exp(f) / np.exp(f).sum(axis=1, keepdims=True)
    wide = np.concatenate([x, np.ones((400, 1))], axis=1)
    blocks = [np.kron(np.outer(a, a), np.diag(q) - np.outer(q, q)) for a, q in zip(wide, p, strict=True)]
    whole, part = (np.linalg.eigvalsh(np.mean(blocks[:n], axis=0))[-1] for n in (400, 100))
    for key in ("hessian", "gauss_newton"):
        assert found[f"{key}.lambda_max"] == pytest.approx(part, rel=1e-3)
        error, bias = (found[f"{key}.lambda_max_sampling_{name}"] for name in ("se", "bias"))
        assert 0 < abs(part - bias - whole) < 3 * error < part
    everything = measured(state, "sampling_error").scalars
    assert everything == {
        f"{key}.lambda_max_sampling_{name}": 0.0 for key in ("hessian", "gauss_newton") for name in ("se", "bias")
    }


@pytest.mark.long
def test_batch_norm_is_in_eval_mode():
    model = models.build("vgg", 3, depth=11, width=1, head=(2,), poolings=3)
    state = state_of(model, 16, 8, (8, 8, 1), modes=("train",), operators=("hessian",))
    assert set(measured(state, "sampling_error").scalars) == {
        f"hessian_eval.lambda_max{rest}" for rest in ("", "_bound", "_sampling_se", "_sampling_bias")
    }
