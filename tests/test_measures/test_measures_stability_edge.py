"""The edge of each optimiser's settings, and λ_max over it on a state made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from measured import eval_state, measured

import hessflat.curvature as cv
from hessflat import models
from hessflat.measures.stability_edge import edge_of
from hessflat.utils.errors import SettingError

SGD = {"name": "sgd", "lr": 0.1, "sam_radius": 0.0, "schedule": "constant", "momentum": 0.0, "nesterov": False}
ADAM = {"name": "adam", "lr": 0.1, "sam_radius": 0.0, "schedule": "constant", "b1": 0.9, "b2": 0.999, "eps": 1e-8}


def test_edges_are_those_of_the_settings():
    assert edge_of(SGD, 1.0) == pytest.approx(20)
    assert edge_of({**SGD, "momentum": 0.9}, 1.0) == pytest.approx(38)
    assert edge_of({**SGD, "momentum": 0.9, "nesterov": True}, 1.0) == pytest.approx(cv.edges.nesterov(0.1, 0.9))
    assert edge_of({**SGD, "sam_radius": 0.2}, 3.0) == pytest.approx(float(cv.edges.sam(0.1, 0.2, 3.0)))
    assert edge_of(ADAM, 1.0) == pytest.approx(380)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SGD, "schedule": "linear_decay"}, "needs a constant rate"),
        ({**SGD, "sam_radius": 0.1, "momentum": 0.9}, "SAM is known for sgd without momentum"),
        ({**ADAM, "sam_radius": 0.1}, "set config.optim.sam_radius=0"),
    ],
)
def test_what_has_no_known_edge_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        edge_of(settings, 1.0)


@pytest.mark.long
def test_it_is_lambda_max_of_the_preconditioned_dense_matrix_over_the_edge():
    keys = jax.random.split(jax.random.key(0), 3)
    split = {"inputs": jax.random.normal(keys[0], (30, 4)), "labels": jax.random.randint(keys[1], (30,), 0, 3)}
    model = models.build("mlp", 3, hidden=(4,))
    params, statistics = model.init(keys[2], split["inputs"][:1])
    flat, unravel = ravel_pytree(params)

    def loss(flat):
        log_p = jax.nn.log_softmax(model.apply(unravel(flat), {}, split["inputs"], False)[0])
        return -jnp.mean(jnp.take_along_axis(log_p, split["labels"][:, None], 1))

    gradient, matrix = jax.jit(jax.grad(loss))(flat), np.asarray(jax.jit(jax.hessian(loss))(flat), float)
    optimiser = optax.adam(0.1)
    _, opt_state = optimiser.update(unravel(gradient), optimiser.init(params))
    state = eval_state(model, params, statistics, {"train": split, "test": split}, rtol=1e-4)
    found = measured(state._replace(opt_state=opt_state, optimiser={**ADAM, "step": 1}), "stability_edge").scalars
    root = 1 / np.sqrt(0.1 * (np.abs(gradient) + 1e-8))  # of the first update, in which both moments are corrected
    expected = np.linalg.eigvalsh(matrix * np.outer(root, root))[-1]
    assert found["edge.lambda_max"] == pytest.approx(expected, rel=1e-3)
    assert found["edge.ratio"] == pytest.approx(expected / 380, rel=1e-3)
    batch = state._replace(optimiser={**SGD, "batch_size": 10, "step": 0})
    small = measured(batch, "stability_edge").scalars
    assert small["edge.ratio"] == pytest.approx(np.linalg.eigvalsh(matrix)[-1] / 20, rel=1e-3)
    assert 0 < small["edge.batch_ratio_se"] < small["edge.batch_ratio"]
    assert not measured(state._replace(optimiser={**ADAM, "step": 0}), "stability_edge").scalars
