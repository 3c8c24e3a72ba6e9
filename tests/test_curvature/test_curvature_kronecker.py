"""Kronecker factors against closed forms, and what they cannot take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEYS = jax.random.split(jax.random.key(0), 6)


def half_squares(outputs, batch):
    return 0.5 * jnp.mean(jnp.sum(outputs.reshape(len(outputs), -1) ** 2, axis=1))


def cross_entropy(outputs, batch):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][:, None], axis=1))


def without_between(op, sizes):
    """The dense matrix with zeros between layers."""
    matrix, start = np.asarray(op.to_dense()), 0
    result = np.zeros_like(matrix)
    for size in sizes:
        own = slice(start, start + size)
        result[own, own] = matrix[own, own]
        start += size
    return result


@pytest.mark.slow
@pytest.mark.parametrize("form", ["product", "transposed", "axes", "convolution"])
def test_of_linear_networks_with_squared_loss_the_blocks_are_exact(form):
    """There E[g gᵀ] does not depend on the example, so that the factors are independent (Bernacchia et al. 2018)."""
    x = jax.random.normal(KEYS[0], (17, 4))
    first, second = jax.random.normal(KEYS[1], (4, 6)), jax.random.normal(KEYS[2], (6, 3))
    params = {"a": {"bias": jnp.ones(6), "kernel": first}, "b": {"kernel": second}}

    def predict(w, batch):
        kernel, x = w["a"]["kernel"], batch["x"]
        if form == "product":
            hidden = x @ kernel + w["a"]["bias"][None]
        elif form == "transposed":
            hidden = jax.jit(lambda k: x @ k.T)(kernel) + w["a"]["bias"][None]
        elif form == "axes":
            hidden = (jnp.einsum("ni,iab->nab", x, kernel) + w["a"]["bias"][None]).reshape(len(x), 6)
        else:
            image = x.reshape(len(x), 2, 2, 1)
            numbers = ("NHWC", "HWIO", "NHWC")
            hidden = jax.lax.conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=numbers)
            hidden = (hidden + w["a"]["bias"].reshape(1, 1, 1, 6))[:, 0, 0]
        return hidden @ w["b"]["kernel"]

    shapes = {"transposed": first.T, "axes": first.reshape(4, 2, 3), "convolution": first.reshape(2, 2, 1, 6)}
    params["a"]["kernel"] = shapes.get(form, first)
    if form == "axes":
        params["a"]["bias"] = jnp.ones((2, 3))
    G = cv.gauss_newton(predict, half_squares, params, cv.Batches({"x": x}, 5))
    expected = without_between(G, (30, 18))
    for kind in ("kfac", "ekfac"):
        factors = cv.kfac(2 * G, kind)
        assert list(factors.factors) == ["a/kernel", "b/kernel"]
        assert_allclose(factors.operator().to_dense(), 2 * expected, atol=1e-5 * np.abs(expected).max())
    inverse = factors.inverse(0.3).to_dense()
    assert_allclose(inverse @ (2 * expected + 0.3 * np.eye(48)), np.eye(48), atol=1e-4)


def convolutional(w, batch):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(batch["x"], w["a"]["kernel"], (2, 1), "SAME", dimension_numbers=numbers)
    return jnp.tanh(x + w["a"]["bias"].reshape(1, 1, 1, 2)).mean((1, 2)) @ w["b"]["kernel"]


@pytest.mark.slow
def test_the_eigenvalues_of_ekfac_are_the_nearest_ones():
    """For any U, diag(Uᵀ G U) is nearest in Frobenius norm; positions share a kernel here."""
    kernel = 0.3 * jax.random.normal(KEYS[1], (3, 3, 2, 2))
    params = {"a": {"bias": jnp.zeros(2), "kernel": kernel}, "b": {"kernel": jax.random.normal(KEYS[2], (2, 3))}}
    data = {"x": jax.random.normal(KEYS[3], (7, 4, 4, 2)), "y": jnp.arange(7) % 3}
    G = cv.gauss_newton(convolutional, cross_entropy, params, data)
    matrix, distances = np.asarray(G.to_dense()), {}
    for sharing in ("expand", "reduce"):
        for kind in ("kfac", "ekfac"):
            found = cv.kfac(G, kind, sharing)
            distances[kind] = np.linalg.norm(matrix - np.asarray(found.operator().to_dense()))
        factors = found.factors["b/kernel"]
        U = np.kron(factors.inputs, factors.outputs)
        block = matrix[38:, 38:]
        assert_allclose(np.ravel(factors.scales), np.diagonal(U.T @ block @ U), atol=1e-5 * np.abs(block).max())
        assert distances["ekfac"] < distances["kfac"]
    told = cv.relative_distance(G, found.operator(), jax.random.key(0), 60)
    assert abs(told.value - distances["ekfac"] / np.linalg.norm(matrix)) < 4 * told.standard_error < 0.5


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("norm", "goes into mul"),
        ("embedding", "goes into gather"),
        ("tied", "is in 2 layers"),
        ("loop", "goes into scan"),
        ("position", "goes into add"),
        ("exponential", "goes into exp"),
        ("penalty", "goes into reduce_sum"),
    ],
)
def test_what_is_no_kernel_of_one_layer_is_refused_by_name(what, message):
    def predict(w, batch):
        x = batch["x"]
        if what == "norm":
            return x * w["w"][None]
        if what == "embedding":
            return w["w"][batch["y"]]
        if what == "tied":
            return x @ w["w"] @ w["w"]
        if what == "exponential":
            return x @ jnp.exp(w["w"])
        if what == "penalty":
            return x @ w["w"] + jnp.sum(w["w"])
        if what == "position":
            return (x[:, None, :] @ jnp.eye(4) + w["w"][None]).sum(axis=1)
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w["w"][None])[0]

    shape = (4,) if what == "norm" else (4, 4)
    data = {"x": jnp.ones((5, 4)), "y": jnp.arange(5) % 4}
    G = cv.gauss_newton(predict, half_squares, {"w": jnp.ones(shape)}, data)
    with pytest.raises(InputError, match=message) as error:
        cv.kfac(G)
    assert "'w'" in str(error.value)


def test_other_matrices_are_refused():
    H = cv.hessian(lambda w, batch: jnp.mean((batch["x"] @ w) ** 2), jnp.ones((4, 1)), {"x": jnp.ones((5, 4))})
    with pytest.raises(InputError, match="one Gauss-Newton or Fisher"):
        cv.kfac(H)
