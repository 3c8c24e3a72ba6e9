"""Jacobians with batch norm in both modes, beside the closed form of a layer and dense matrices of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models
from hessflat.measures.batch_norm import compare_jacobians
from hessflat.measures.eval_state import model_functions
from hessflat.utils.errors import InputError

SETTINGS = {"sample_sizes": (12,), "blocks": 12}


def layer_differences(inputs, blocks, epsilon=1e-5):
    layer = models.batch_norm_layer(epsilon)
    params, _ = layer.init(jax.random.key(0), inputs[:1])
    statistics = {"BatchNorm_0": {"mean": inputs.mean(0), "var": inputs.var(0)}}
    in_train, in_eval = (model_functions(layer, "cross_entropy", mode).logits for mode in ("train", "eval"))
    return compare_jacobians(in_train, in_eval, params, statistics, inputs, blocks, jax.random.key(1))


@pytest.mark.slow
def test_a_layer_differs_by_its_closed_form():
    with jax.enable_x64(True):
        inputs = 3 * jax.random.normal(jax.random.key(0), (20, 3), jnp.float64) + jnp.arange(3.0)[None]
        found = layer_differences(inputs, 20)
        spread = np.sqrt(np.asarray(inputs.var(0)) + 1e-5)
        normed = (np.asarray(inputs) - np.asarray(inputs.mean(0))) / spread
        # −(1 1ᵀ + x̂ x̂ᵀ) / (N s), for every channel.
        outer = np.einsum("ic,jc->cij", normed, normed)
        difference = (1 + outer) / (20 * spread[:, None, None])
        own = np.eye(20, dtype=bool)
        assert found["largest_entry"] == pytest.approx(np.abs(difference).max(), rel=1e-10)
        assert found["diagonal"] == pytest.approx(difference[:, own].max(), rel=1e-10)
        assert found["off_diagonal"] == pytest.approx(np.abs(difference[:, ~own]).max(), rel=1e-10)
        assert found["row"] == pytest.approx(np.linalg.norm(difference, axis=2).max(), rel=1e-10)
        # The norm is 1/s for any N: 1 and x̂ are orthogonal and of length √N.
        assert found["operator"] == pytest.approx((1 / spread).max(), rel=1e-3)
        assert found["train_operator"] == pytest.approx((1 / spread).max(), rel=1e-3)
        assert found["eval_operator"] == pytest.approx((1 / spread).max(), rel=1e-10)
        assert found["outputs"] < 1e-12


@pytest.fixture(scope="module")
def network():
    keys = jax.random.split(jax.random.key(2), 3)
    inputs, labels = jax.random.normal(keys[0], (12, 5)), jax.random.randint(keys[1], (12,), 0, 3)
    model = models.build("mlp", 3, hidden=(6, 4), batch_norm=True)
    params, statistics = model.init(keys[2], inputs[:1])
    split = {"inputs": inputs, "labels": labels}
    splits = {"train": split, "test": split}
    return eval_state(model, params, statistics, splits, operators=("hessian",), rtol=1e-6)


@pytest.fixture(scope="module")
def found(network):
    arrays = measured(network, "batch_norm", **SETTINGS).arrays["batch_norm-network"]
    return {name: array[0] for name, array in arrays.items()}


@pytest.mark.slow
def test_a_network_differs_as_its_dense_jacobians(network, found):
    model, inputs = network.model, network.splits["train"]["inputs"]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.params)
        inputs = inputs.astype(jnp.float64)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), network.batch_stats)
        # An average that starts at zero is a tenth of the statistics of the batch.
        statistics = jax.tree.map(
            lambda leaf: 10 * leaf, jax.jit(lambda x: model.apply(params, zeros, x, True))(inputs)[1]
        )
        dense = [
            np.asarray(jax.jit(jax.jacobian(lambda x, mode=mode: model.apply(params, statistics, x, mode)[0]))(inputs))
            for mode in (True, False)
        ]  # [i, C, j, D] in train and in eval mode
    difference = dense[0] - dense[1]
    blocks = np.linalg.norm(difference, 2, axis=(1, 3))
    own = np.eye(12, dtype=bool)
    assert found["largest_entry"] == pytest.approx(np.abs(difference).max(), rel=1e-6)
    assert found["diagonal"] == pytest.approx(blocks[own].max(), rel=1e-6)
    assert found["off_diagonal"] == pytest.approx(blocks[~own].max(), rel=1e-6)
    assert found["row"] == pytest.approx(np.linalg.norm(difference, axis=(2, 3)).max(), rel=1e-6)
    top = np.argsort(np.linalg.norm(dense[1], 2, axis=(1, 3))[own])[-2:]
    assert found["largest_diagonal"] == pytest.approx(blocks[own][top].max(), rel=1e-6)
    assert found["operator"] == pytest.approx(np.linalg.norm(difference.reshape(36, 60), 2), rel=1e-2)
    for mode, matrix in zip(("train", "eval"), dense, strict=True):
        norms = np.linalg.norm(matrix, 2, axis=(1, 3))[own]
        assert found[f"{mode}_block"] == pytest.approx(norms[top].max(), rel=1e-6)
        assert found[f"{mode}_operator"] == pytest.approx(np.linalg.norm(matrix.reshape(36, 60), 2), rel=1e-3)
    assert found["outputs"] < 1e-12


@pytest.mark.slow
def test_the_largest_eigenvalue_in_eval_mode_has_the_statistics_of_the_examples(network, found):
    train = network.splits["train"]
    flat, unravel = jax.flatten_util.ravel_pytree(network.params)
    zeros = jax.tree.map(jnp.zeros_like, network.batch_stats)
    statistics = jax.tree.map(
        lambda leaf: 10 * leaf, network.model.apply(network.params, zeros, train["inputs"], True)[1]
    )
    for mode in ("train", "eval"):

        def loss(flat, mode=mode):
            logits = network.model.apply(unravel(flat), statistics, train["inputs"], mode == "train")[0]
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), train["labels"][:, None], 1))

        top = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64))[-1]
        assert found[f"hessian_{mode}"] == pytest.approx(top, rel=1e-3)


def test_models_without_batch_norm_and_samples_that_are_too_large_are_refused(network):
    bare = models.build("mlp", 3, hidden=(6,))
    with pytest.raises(InputError, match="needs a model with batch norm"):
        measured(network._replace(model=bare, batch_stats={}), "batch_norm", **SETTINGS)
    with pytest.raises(InputError, match="must be at most 12, the training split, got 13"):
        measured(network, "batch_norm", sample_sizes=(13,), blocks=12)
