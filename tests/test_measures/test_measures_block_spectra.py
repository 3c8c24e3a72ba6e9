"""The spectra of the layers of a perceptron against their dense matrices, and what a transformer's parameters are."""

import jax
import numpy as np
import pytest
from measured import eval_state, measured

import hessflat.curvature as cv
from hessflat import models
from hessflat.measures.block_spectra import kind
from hessflat.measures.eval_state import curvature_operator


@pytest.mark.slow
def test_layers_have_the_largest_eigenvalues_and_traces_of_their_dense_blocks():
    model = models.build("mlp", 3, hidden=(4,))
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(20, 5)).astype(np.float32)
    split = {"inputs": inputs, "labels": rng.integers(3, size=20).astype(np.int32)}
    params, _ = jax.jit(model.init)(jax.random.key(0), inputs)
    state = eval_state(model, params, {}, {"train": split, "test": split}, operators=("gauss_newton",))
    found = measured(state, "block_spectra", block_steps=24)
    op = curvature_operator(state, "gauss_newton", "eval")
    for layer in ("Dense_0", "Dense_1"):
        exact = np.asarray(cv.eigvalsh(cv.restrict(op, f"{layer}/*")))
        numbers = {
            name: found.scalars[f"gauss_newton.blocks.{layer}.{name}"]
            for name in ("lambda_max", "lambda_max_bound", "trace", "trace_se", "mean_eigenvalue")
        }
        assert abs(numbers["lambda_max"] - exact[-1]) <= numbers["lambda_max_bound"] + 1e-5 * exact[-1]
        assert abs(numbers["trace"] - exact.sum()) <= 5 * numbers["trace_se"] + 1e-5
        assert numbers["mean_eigenvalue"] == pytest.approx(numbers["trace"] / exact.size)
    arrays = found.arrays["gauss_newton-blocks"]
    assert arrays["names"].tolist() == ["Dense_0", "Dense_1"]
    assert arrays["sizes"].tolist() == [24, 15]
    assert found.scalars["gauss_newton.blocks.heterogeneity"] == pytest.approx(arrays["distances"][0, 1])
    spectrum = cv.spectrum_from_arrays({k.removeprefix("Dense_0/"): v for k, v in arrays.items() if "Dense_0/" in k})
    assert spectrum.size == 24


def test_every_parameter_of_a_transformer_is_of_a_kind():
    model = models.build("transformer", 7, layers=2, width=8, positions="learnt", norm="layer")
    params, _ = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4), np.int32))
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]
    counts = {name: sum(kind(path) == name for path in paths) for name in ("q", "k", "v", "o", "mlp", "norm")}
    assert counts == {"q": 2, "k": 2, "v": 2, "o": 2, "mlp": 4, "norm": 10}
    assert [path for path in paths if kind(path) == "embedding"] == [
        "embedding/embedding",
        "position_embedding/embedding",
    ]
