import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import examples, loss, mlp_params, predict
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.errors import InputError


def loss_and_accuracy(params, batch):
    right = predict(params, batch).argmax(axis=1) == batch["y"]
    return {"loss": loss(params, batch), "accuracy": right.mean()}


def test_values_on_and_beyond_the_segment():
    a, b, batch = mlp_params(5, 3), mlp_params(5, 3, seed=1), examples(11, 5, 3)
    alphas = [-0.5, 0, 0.25, 1, 2]
    found = cv.line(loss_and_accuracy, a, b, alphas, cv.Batches(batch, 4))
    points = [jax.tree.map(lambda x, y, t=t: (1 - t) * x + t * y, a, b) for t in alphas]
    assert_allclose(found["loss"], [loss(p, batch) for p in points], rtol=1e-5)
    assert_allclose(found["accuracy"], [loss_and_accuracy(p, batch)["accuracy"] for p in points], rtol=1e-5)


def test_points_that_differ_in_shape_are_refused():
    with pytest.raises(InputError, match=r"b\[0\]\[0\] must have shape \(5, 3\), got \(5, 4\)"):
        cv.line(loss, mlp_params(5, 3), mlp_params(5, 4), np.zeros(1), examples(11, 5, 3))
    with pytest.raises(InputError, match="a must be a tree of arrays"):
        cv.line(loss, [], [], jnp.zeros(1), examples(11, 5, 3))
