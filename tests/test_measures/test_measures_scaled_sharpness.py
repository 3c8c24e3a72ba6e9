"""λ_max of T H T beside the dense matrix, and beside itself where a factor has moved from one layer to the next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured, with_factor_moved

from hessflat import models


def state_at(model, params, statistics, inputs, labels):
    split = {"inputs": inputs, "labels": labels}
    splits = {"train": split, "test": split}
    return eval_state(model, params, statistics, splits, rtol=1e-4)


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    inputs, labels = jax.random.normal(keys[0], (40, 5)), jax.random.randint(keys[1], (40,), 0, 3)
    model = models.build("mlp", 3, hidden=(6,))
    params, statistics = model.init(keys[2], inputs[:1])
    return state_at(model, jax.tree.map(lambda x: 2 * x, params), statistics, inputs, labels)


def scaled_of(state):
    return measured(state, "scaled_sharpness").scalars


@pytest.mark.slow
def test_it_is_that_of_the_dense_matrix(case):
    flat, unravel = jax.flatten_util.ravel_pytree(case.params)
    train = case.splits["train"]

    def loss(flat):
        log_p = jax.nn.log_softmax(case.model.apply(unravel(flat), {}, train["inputs"], False)[0])
        return -jnp.mean(jnp.take_along_axis(log_p, train["labels"][:, None], 1))

    matrix = np.asarray(jax.jit(jax.hessian(loss))(flat), float)
    norms = {name: np.linalg.norm(layer["kernel"], axis=0) for name, layer in case.params.items()}
    filters = {
        name: {"bias": np.zeros_like(layer["bias"]), "kernel": np.ones_like(layer["kernel"]) * norms[name]}
        for name, layer in case.params.items()
    }
    expected = {"adaptive": np.abs(flat), "filter": jax.flatten_util.ravel_pytree(filters)[0]}
    found = scaled_of(case)
    for name, scales in expected.items():
        largest = np.linalg.eigvalsh(np.diag(scales) @ matrix @ np.diag(scales))[-1]
        assert found[f"hessian.{name}_lambda_max"] == pytest.approx(largest, rel=1e-3)
        assert found[f"hessian.{name}_lambda_max_bound"] < 1e-3 * largest


@pytest.mark.slow
def test_a_factor_that_moves_to_the_next_relu_layer_changes_nothing(case):
    before, after = scaled_of(case), scaled_of(with_factor_moved(case, 3))
    for name in ("adaptive", "filter"):
        assert after[f"hessian.{name}_lambda_max"] == pytest.approx(before[f"hessian.{name}_lambda_max"], rel=1e-3)


@pytest.mark.slow
def test_factors_of_single_filters_before_batch_norm_change_nothing(case):
    train = case.splits["train"]
    model = models.build("mlp", 3, hidden=(6,), batch_norm=True)
    params, statistics = model.init(jax.random.key(3), train["inputs"][:1])
    factors = jnp.linspace(0.5, 3.0, 6)
    first = params["Dense_0"]
    moved = {"kernel": first["kernel"] * factors[None], "bias": first["bias"] * factors}
    states = [
        state_at(model, params | {"Dense_0": layer}, statistics, train["inputs"], train["labels"])
        for layer in (first, moved)
    ]
    before, after = map(scaled_of, states)
    for name in ("adaptive", "filter"):
        assert after[f"hessian.{name}_lambda_max"] == pytest.approx(before[f"hessian.{name}_lambda_max"], rel=3e-3)


@pytest.mark.long
def test_each_mode_of_batch_norm_has_its_own():
    keys = jax.random.split(jax.random.key(1), 3)
    images, labels = jax.random.normal(keys[0], (16, 8, 8, 1)), jax.random.randint(keys[1], (16,), 0, 3)
    model = models.build("vgg", 3, depth=11, width=1, head=(2,), poolings=3)
    found = scaled_of(state_at(model, *model.init(keys[2], images[:1]), images, labels))
    assert set(found) == {
        f"hessian{mode}.{name}_lambda_max{bound}"
        for mode in ("", "_eval")
        for name in ("adaptive", "filter")
        for bound in ("", "_bound")
    }
    assert found["hessian.adaptive_lambda_max"] != pytest.approx(found["hessian_eval.adaptive_lambda_max"], rel=0.01)
