"""Arrays are changed in place after an operator was made of them: nothing of the operator changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import hessflat.curvature as cv

KEY = jax.random.key(0)


def aligned(values):
    """`values` in memory whose alignment lets JAX borrow it."""
    values = np.asarray(values)
    raw = np.empty(values.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    array[...] = values
    return array


def views(array):
    """The array as it is given: itself, or a view of it that is not writeable."""
    fixed = array.view()
    fixed.flags.writeable = False
    return {"itself": array, "a view": fixed}


def loss(w, batch, state):
    return jnp.mean((batch["x"] @ w) ** 4) * state.sum() + jnp.sum(w**4)


def predict(w, batch, state):
    return (batch["x"] @ w) ** 2 * state.sum()


def criterion(outputs, batch, state):
    return jnp.mean(outputs**2)


def losses(w, batch, state):
    return (batch["x"] @ w) ** 4 * state.sum()


MAKERS = {
    "hessian": lambda w, data, state: cv.hessian(loss, w, data, state),
    "gauss_newton": lambda w, data, state: cv.gauss_newton(predict, criterion, w, data, state),
    "residual": lambda w, data, state: cv.residual(predict, criterion, w, data, state),
    "fisher": lambda w, data, state: cv.fisher(losses, w, data, state),
    "gradient_covariance": lambda w, data, state: cv.gradient_covariance(losses, w, data, state),
    "from_matvec": lambda w, data, state: cv.from_matvec(
        lambda v, s, x: s.sum() * v + 0 * x.sum(), w, state, data["x"]
    ),
    "batches": lambda w, data, state: cv.hessian(loss, w, cv.Batches(data, 100), state),
    "linearised": lambda w, data, state: cv.linearize(cv.hessian(loss, w, data, state)),
    "shifted": lambda w, data, state: cv.hessian(loss, w, data, state) + 1.0,
}


@pytest.mark.parametrize("how", ["itself", "a view"])
@pytest.mark.parametrize("name", MAKERS)
def test_an_operator_keeps_its_own_arrays(name, how):
    rng = np.random.default_rng(0)
    arrays = [aligned(np.float32(rng.normal(size=shape))) for shape in ((64,), (1000, 64), (32,))]
    w, x, state = (views(array)[how] for array in arrays)
    op, vector = MAKERS[name](w, {"x": x}, state), jnp.ones(64)
    before = np.array(op(vector))
    for array in arrays:
        array *= 3
    assert_array_equal(np.asarray(op(vector)), before)


def test_weights_are_its_own():
    weights, x = aligned(np.float32(np.arange(1, 1025))), np.float32(np.random.default_rng(0).normal(size=(1024, 4)))
    op = cv.hessian(
        lambda w, b: jnp.sum(b["m"] * (b["x"] @ w) ** 2) / jnp.sum(b["m"]),
        jnp.ones(4),
        cv.Batches({"x": x, "m": np.ones(1024, np.float32)}, weights=weights),
    )
    before = np.array(op(jnp.ones(4)))
    weights[:] = 1
    assert_array_equal(np.asarray(op(jnp.ones(4))), before)


def test_a_vector_is_copied_before_the_product_runs():
    vector = aligned(np.ones(4096, np.float32))
    op = cv.from_matvec(lambda v: 2 * v, jnp.zeros(4096))
    flat, tree = op(vector), cv.from_matvec(lambda v: v, {"a": jnp.zeros(4096)})({"a": vector})["a"]
    vector[:] = 0
    assert_array_equal(np.asarray(flat), 2)
    assert_array_equal(np.asarray(tree), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_arrays_of_every_type(dtype):
    x = aligned(np.ones((500, 8), dtype))
    op = cv.hessian(lambda w, b: jnp.mean((b["x"] @ w) ** 2), jnp.ones(8), {"x": x})
    before = np.array(op(jnp.ones(8)))
    x *= 2
    assert_array_equal(np.asarray(op(jnp.ones(8))), before)
