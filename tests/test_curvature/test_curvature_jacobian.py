import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import conv_predict, conv_problem, mlp_params, predict
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.errors import InputError


def apply(params, inputs):
    return predict(params, {"x": inputs})


def apply_conv(params, inputs):
    return conv_predict(params, {"x": inputs})


def closed_form(params, x, softmax):
    """The spectral norm for one hidden tanh layer, in NumPy."""
    (w1, b1), (w2, b2) = [tuple(np.asarray(a, np.float64) for a in pair) for pair in params]
    hidden = np.tanh(x @ w1 + b1)
    jacobian = w2.T @ np.diag(1 - hidden**2) @ w1.T
    if softmax:
        p = np.exp(hidden @ w2 + b2)
        p /= p.sum()
        jacobian = (np.diag(p) - np.outer(p, p)) @ jacobian
    return np.linalg.norm(jacobian, 2)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_norms_are_the_closed_form(batch_size, softmax):
    params, inputs = mlp_params(6, 5, 3), np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)
    norms = cv.jacobian_norms(apply, params, inputs, softmax, batch_size)
    assert_allclose(norms, [closed_form(params, x.astype(np.float64), softmax) for x in inputs], rtol=1e-5)


def test_a_saturated_softmax_does_not_underflow():
    params = [(1e2 * jnp.eye(3)[:, :2], jnp.asarray([0.0, -60.0]))]
    assert 0 < cv.jacobian_norms(apply, params, jnp.zeros((1, 3)), softmax=True)[0] < 1e-20


def test_convolutions_in_batches():
    params, batch = conv_problem(7)
    whole = cv.jacobian_norms(apply_conv, params, batch["x"])
    assert whole.shape == (7,)
    assert_allclose(cv.jacobian_norms(apply_conv, params, batch["x"], batch_size=3), whole, rtol=1e-5)


def test_a_constant_has_norm_zero():
    params = mlp_params(4, 3)
    assert_allclose(cv.jacobian_norms(lambda p, x: 0 * apply(p, x), params, jnp.ones((2, 4))), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((apply, [(jnp.ones((3, 2)), jnp.ones(2))], jnp.ones((2, 4))), "cannot be evaluated"),
        ((lambda p, x: x.sum(), {"a": jnp.ones(1)}, jnp.ones((2, 4))), r"must have shape \(2, C\), got \(\)"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, np.ones((2, 4), int)), "inputs must be real floating point"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.full((2, 4), jnp.inf)), "inputs must be finite"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.ones((2, 4)), False, 0), "batch_size must be"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.ones((0, 4))), "at least one example"),
    ],
)
def test_wrong_input_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        cv.jacobian_norms(*arguments)


def test_a_second_set_of_parameters_does_not_compile_again():
    traced = []

    def counted(params, inputs):
        traced.append(1)
        return apply(params, inputs)

    inputs = jnp.ones((5, 6))
    cv.jacobian_norms(counted, mlp_params(6, 3), inputs, batch_size=2)
    before = len(traced)
    cv.jacobian_norms(counted, jax.tree.map(lambda p: p + 1, mlp_params(6, 3)), inputs, batch_size=2)
    assert len(traced) == before
