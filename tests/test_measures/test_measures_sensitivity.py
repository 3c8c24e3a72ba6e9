"""The Hessian under every protocol, beside the dense matrix of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models


def sensitivity(model, params, batch_stats, inputs, labels):
    split = {"inputs": inputs, "labels": labels}
    splits = {"train": split, "test": split}
    state = eval_state(model, params, batch_stats, splits, rtol=1e-4)
    return measured(state, "sensitivity", batch_stats_sizes=(4,), trace_probes=3).arrays["sensitivity"]


@pytest.mark.slow
def test_each_precision_is_that_of_the_dense_matrix():
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (40, 5)), jax.random.randint(keys[1], (40,), 0, 3)
    model = models.build("mlp", 3, hidden=(6,))
    params, statistics = model.init(keys[2], inputs[:1])
    found = sensitivity(model, params, statistics, inputs, labels)
    assert found["float64"].tolist() == [False, True]
    with jax.enable_x64(True):
        flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: x.astype(jnp.float64), params))

        def loss(flat):
            log_p = jax.nn.log_softmax(model.apply(unravel(flat), {}, inputs.astype(jnp.float64), False)[0])
            return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

        matrix = np.asarray(jax.jit(jax.hessian(loss))(flat))
    values = np.linalg.eigvalsh(matrix)
    assert found["lambda_max"] == pytest.approx(values[-1], rel=1e-4)
    assert found["lambda_min"] == pytest.approx(values[0], rel=1e-3)
    # The probes are the same in both, so that each of their estimates agrees, not only the mean.
    assert found["trace"].shape == (2, 3)
    assert found["trace"][0] == pytest.approx(found["trace"][1], rel=1e-4)
    assert found["second_moment"][0] == pytest.approx(found["second_moment"][1], rel=1e-4)
    assert found["trace"].mean() == pytest.approx(np.trace(matrix), rel=0.5)
    assert found["second_moment"].mean() == pytest.approx(np.mean(values**2), rel=0.5)


@pytest.mark.long
def test_modes_and_statistics_of_batch_norm_are_protocols_of_their_own():
    keys = jax.random.split(jax.random.key(1), 3)
    images, labels = jax.random.normal(keys[0], (8, 8, 8, 1)), jax.random.randint(keys[1], (8,), 0, 3)
    model = models.build("vgg", 3, depth=11, width=1, head=(2,), poolings=3)
    found = sensitivity(model, *model.init(keys[2], images[:1]), images, labels)
    assert found["mode"].tolist() == ["train", "eval", "train", "train", "eval"]
    assert found["batch_stats_size"].tolist() == [0, 0, 4, 0, 0]
    assert found["float64"].tolist() == [False, False, False, True, True]
    whole, running, cut, whole64, running64 = found["lambda_max"]
    assert (whole, running) == (pytest.approx(whole64, rel=1e-3), pytest.approx(running64, rel=1e-3))
    assert len({round(float(value), 6) for value in (whole, running, cut)}) == 3
