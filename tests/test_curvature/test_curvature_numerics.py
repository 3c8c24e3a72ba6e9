"""Inner products of long vectors, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature import numerics

LONG = 2**20 + 3  # no whole number of pieces


@pytest.fixture(scope="module")
def rows():
    """Of one sign, so that every partial sum is large."""
    rows = np.abs(np.random.default_rng(0).normal(size=(7, LONG)))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("storage", [np.float32, np.float16])
def test_dots(rows, storage):
    narrow = (np.sqrt(LONG) * rows).astype(storage)
    exact = narrow.astype(np.float64) @ rows[0].astype(np.float64)
    found = jax.jit(numerics.accurate_dot)(narrow, rows[0])
    assert found.dtype == np.float32
    assert_allclose(found, exact, rtol=1e-6)
    plain = jnp.asarray(narrow, np.float32) @ rows[0]
    assert np.abs(plain / exact - 1).max() > 1e-5  # what XLA does by itself: without this, `accurate_dot` is not needed


def test_long_vectors_stay_orthogonal():
    """Where ten eigenvalues stand far out, all steps go along their vectors, and every rounding counts."""
    diagonal = jnp.concatenate([jnp.linspace(10, 100, 10), jnp.linspace(0, 1e-3, 2**20 - 10)])
    op = cv.from_matvec(jnp.multiply, jnp.zeros(2**20), diagonal)
    assert cv.lanczos(op, jax.random.key(1), 40).orthogonality[0] < 3e-4


def test_a_combination_of_rows(rows):
    coefficients = np.linspace(-1, 2, 7, dtype=np.float32)
    assert_allclose(numerics.combination(jax.device_put(coefficients), rows), coefficients @ rows, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [50, 2**16, LONG])
def test_gram(rows, size):
    cut = rows[:, :size]
    exact = cut.astype(np.float64) @ cut.T.astype(np.float64)
    found = numerics.gram((jax.device_put(cut[:5]), jax.device_put(cut[5:])))
    assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.long
def test_a_million_parameters_stay_orthogonal():
    """Beside a float64 Gram matrix; and the extremes of a known diagonal, which need it."""
    diagonal = np.concatenate([np.random.default_rng(0).exponential(0.01, LONG - 20), np.linspace(1, 20, 20)])
    op = cv.from_matvec(jnp.multiply, jnp.zeros(LONG), jax.device_put(np.float32(diagonal)))
    found = cv.lanczos(op, jax.random.key(0), 30, return_basis=True)
    basis = np.asarray(found.basis[0], np.float64)
    loss = np.abs(basis @ basis.T - np.eye(30)).max()
    assert loss < 1e-5
    assert_allclose(found.orthogonality[0], loss, atol=5e-7)
    largest = cv.spectrum(op, jax.random.key(0), 30).largest
    assert abs(largest.value - 20) <= largest.residual


def test_a_probe_is_the_same_in_every_precision_and_of_another_number_another():
    key = jax.random.key(3)
    with jax.enable_x64(True):
        double = {kind: numerics.draw_probe(key, 1001, np.float64, kind) for kind in ("rademacher", "gaussian")}
        for kind, vector in double.items():
            assert_allclose(vector, numerics.draw_probe(key, 1001, np.float32, kind), rtol=1e-6)
            assert_allclose(np.linalg.norm(vector), 1, rtol=1e-12)
            other = numerics.draw_probe(key, 1001, np.float64, kind, 1)
            assert abs(float(vector @ other)) < 5 / np.sqrt(1001)
            assert abs(float(vector @ numerics.draw_probe(jax.random.key(4), 1001, np.float64, kind))) < 5 / np.sqrt(
                1001
            )
        assert set(np.asarray(double["rademacher"] * np.sqrt(1001)).round(12)) == {-1.0, 1.0}
