"""∇λ_max against differences of eigenvalues, layer normalisation included; overlaps against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)


def normalised(params, batch):
    hidden = batch["x"] @ params["in"]
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / jnp.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
    hidden = jnp.tanh(hidden * params["scale"][None])
    return hidden @ params["out"]


def loss(params, batch):
    return jnp.mean((normalised(params, batch) - batch["y"]) ** 2)


@pytest.mark.slow
def test_the_gradient_of_the_largest_eigenvalue_is_that_of_differences():
    rng = np.random.default_rng(0)
    batch = {"x": rng.standard_normal((9, 4)), "y": rng.standard_normal((9, 2))}
    params = {"in": rng.standard_normal((4, 5)), "scale": 1 + rng.random(5), "out": rng.standard_normal((5, 2))}
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(params)
        dense = jax.jit(jax.hessian(lambda w: loss(unravel(w), batch)))
        top = np.linalg.eigh(dense(flat))[1][:, -1]
        H = cv.hessian(loss, params, cv.Batches(batch, 4))
        direction = rng.standard_normal(flat.size)
        found = cv.sharpness_gradient(H, unravel(top), unravel(1e-3 * direction))
        step = 1e-5
        up, down = (np.linalg.eigvalsh(dense(flat + sign * step * direction))[-1] for sign in (1, -1))
        assert found.value == pytest.approx(np.linalg.eigvalsh(dense(flat))[-1], rel=1e-10)
        assert found.change == pytest.approx(1e-3 * (up - down) / (2 * step), rel=1e-6)
        along = float(ravel_pytree(found.gradient)[0] @ direction)
        assert found.cosine == pytest.approx(along / (found.norm * np.linalg.norm(direction)), rel=1e-10)
    # In single precision, and of the vectors of `eigenpairs`.
    H = cv.hessian(loss, params, cv.Batches(batch, 4))
    pairs = cv.eigenpairs(H, KEY, rtol=1e-6)
    single = cv.sharpness_gradient(H, pairs.vectors, unravel(1e-3 * direction))
    assert single.change == pytest.approx(found.change, rel=1e-4)


def diagonal(values, turn=0.0):
    """An operator with these eigenvalues, its first and third axes turned into each other."""
    rotation = np.eye(len(values))
    rotation[np.ix_([0, 2], [0, 2])] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    matrix = (rotation * values) @ rotation.T
    return cv.from_matvec(lambda v, a: a @ v, jnp.zeros(len(values)), matrix.astype(np.float32))


def test_overlaps_and_shares_are_those_of_turned_eigenspaces():
    values = np.array([9.0, 7.0, 2.0, 1.0, 0.5, 0.1])
    first, second = (cv.eigenpairs(diagonal(values, turn), KEY, 3, rtol=1e-5) for turn in (0.0, 0.6))
    overlap = cv.subspace_overlap(first, second, 2)
    assert overlap.value == pytest.approx((1 + np.cos(0.6) ** 2) / 2, abs=max(overlap.error, 1e-6))
    assert overlap.error < 1e-4
    assert cv.subspace_overlap(first, first, 2).value == pytest.approx(1, abs=1e-6)
    vector = np.array([1.0, 2.0, 3.0, 0.0, 0.0, 1.0], np.float32)
    share = cv.subspace_share(vector, first, 2)
    assert share.value == pytest.approx(5 / 15, abs=max(share.error, 1e-6))
    for size in (1e-25, 1e25):
        assert cv.subspace_share(size * vector, first, 2).value == pytest.approx(share.value, rel=1e-5)
    loose = cv.eigenpairs(diagonal(values), KEY, 3, rtol=0.3)
    exact = cv.subspace_share(vector, loose, 2)
    assert abs(exact.value - 5 / 15) <= exact.error + 1e-6
    with pytest.raises(InputError, match="2 dimensions take at least 3 pairs"):
        cv.subspace_share(vector, first._replace(values=first.values[:2]), 2)
    with pytest.raises(InputError, match="which='largest'"):
        cv.subspace_share(vector, first._replace(values=first.values[::-1]), 2)
