"""Norms by layer beside the network written out, and the outputs that are stored."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models
from hessflat.measures.layer_input_norms import spectral_norm


def test_norms_of_features_and_kernels_and_stored_outputs():
    model = models.build("mlp", 3, hidden=(5, 4), activation="tanh")
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (9, 6))
    params, statistics = model.init(keys[1], x)
    splits = {"train": {"inputs": x, "labels": jnp.arange(9) % 3}, "test": {"inputs": x[:2], "labels": jnp.arange(2)}}
    state = eval_state(model, params, statistics, splits, examples=7)
    found = measured(state, "layer_input_norms", "predictions", "answers")
    expected = np.asarray(x[:7], np.float64)
    for layer in range(3):
        kernel, bias = (np.asarray(params[f"Dense_{layer}"][name], np.float64) for name in ("kernel", "bias"))
        assert found.scalars[f"features.Dense_{layer}.norm"] == pytest.approx(np.linalg.norm(expected, 2), rel=1e-5)
        assert found.scalars[f"kernel.Dense_{layer}.norm"] == pytest.approx(np.linalg.norm(kernel), rel=1e-6)
        logits = expected @ kernel + bias[None]
        expected = np.tanh(logits)
    stored = found.arrays["predictions"]
    np.testing.assert_allclose(stored["train_outputs"][:7], logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stored["test_outputs"], stored["train_outputs"][:2], rtol=1e-5)
    assert stored["train_inputs"].shape == (9, 6)
    assert stored["test_labels"].tolist() == [0, 1]
    answers = found.arrays["answers"]
    assert set(answers) == {"test", "test_size", "test_labels"}
    right = np.argmax(stored["test_outputs"], axis=1) == stored["test_labels"]
    assert np.unpackbits(answers["test"], count=int(answers["test_size"])).astype(bool).tolist() == right.tolist()
    assert int(answers["test_labels"]) == zlib.crc32(np.array([0, 1], np.int32).tobytes())


def test_large_and_small_matrices_have_the_norm_of_their_singular_values():
    random = np.random.default_rng(0)
    for shape in ((600, 520), (7, 3), (3, 7)):
        matrix = random.standard_normal(shape).astype(np.float32)
        assert spectral_norm(matrix) == pytest.approx(np.linalg.norm(matrix.astype(np.float64), 2), rel=1e-5)
    assert spectral_norm(np.zeros((4, 2), np.float32)) == 0
