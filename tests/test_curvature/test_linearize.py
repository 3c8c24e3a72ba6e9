"""A linearised operator has the same products, over batches, functions and transformations; so has the plain engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    conv_loss,
    conv_predict,
    conv_problem,
    criterion,
    examples,
    loss,
    losses,
    mlp_params,
    predict,
)
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.operators import linearize, operator
from hessflat.curvature.operators.linearize import LinearizedTerm
from hessflat.curvature.operators.terms import loop_for
from hessflat.utils import convolution
from hessflat.utils.convolution import equations_of
from hessflat.utils.errors import InputError


def linearized(op):
    result = cv.linearize(op)
    assert all(isinstance(term, LinearizedTerm) for term in result.terms)
    return result


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [None, 4, 11, 3])
def test_products_are_those_of_the_operator(batch_size):
    params, data = mlp_params(5, 4, 3), cv.Batches(examples(11, 5, 3), batch_size)
    H, G = cv.hessian(loss, params, data), cv.gauss_newton(predict, criterion, params, data)
    vector = jax.device_put(np.float32(np.random.default_rng(0).normal(size=H.size)))
    for op in (H, G, cv.residual(predict, criterion, params, data), cv.fisher(losses, params, data), H - 0.5 * G + 2.0):
        assert_allclose(linearized(op)(vector), op(vector), atol=1e-6)
    tree = linearized(H)(H._as_vector(params))
    assert jax.tree.structure(tree) == jax.tree.structure(params)


def test_convolutions():
    params, batch = conv_problem()
    whole, pieces = cv.hessian(conv_loss, params, batch), cv.hessian(conv_loss, params, cv.Batches(batch, 5))
    assert_allclose(linearized(pieces).to_dense(), whole.to_dense(), atol=1e-6)


def test_the_network_is_not_run_again():
    """No product has the exponential of the softmax, nor the first layer's hyperbolic tangent, in its program."""
    params, batch = mlp_params(5, 4, 3), examples(11, 5, 3)
    op = cv.hessian(loss, params, batch)

    def names(op):
        jaxpr = jax.make_jaxpr(operator.tree_matvec)(op, op.params).jaxpr
        return [e.primitive.name for e in equations_of(jaxpr.eqns)]

    assert {"tanh", "exp"} <= set(names(op))
    assert not {"tanh", "exp"} & set(names(linearized(op)))
    products = [sum(name == "dot_general" for name in names(o)) for o in (op, linearized(op))]
    assert products[1] < products[0]


def test_what_only_repeats_numbers_is_made_again():
    """Of ReLU, masks and activations are kept, in bytes: no broadcast zeros, no second copy of anything."""
    number, width = 64, 32

    def relu_loss(params, batch):
        return criterion(jax.nn.relu(batch["x"] @ params["in"]) @ params["out"], batch)

    params = {"in": jnp.ones((5, width)), "out": jnp.ones((width, 3))}
    (term,) = linearized(cv.hessian(relu_loss, params, examples(number, 5, 3))).terms
    floats = sum(x.size for x in term.residuals_per_batch if x.dtype == np.float32)
    masks = sum(x.size for x in term.residuals_per_batch if x.dtype == bool)
    assert masks <= number * width + 3 * number * 3
    assert floats <= 2 * number * width + 12 * number * 3


def test_a_limit_and_a_transformation_leave_the_operator_alone():
    params, batch = mlp_params(5, 4, 3), examples(11, 5, 3)
    op = cv.hessian(loss, params, batch)
    assert cv.linearize(op, limit=10) is not None
    assert not any(isinstance(term, LinearizedTerm) for term in cv.linearize(op, limit=10).terms)
    vector = jnp.ones(op.size)
    assert_allclose(jax.jit(lambda op, v: cv.linearize(op)(v))(op, vector), op(vector), atol=1e-6)


def test_measurements_take_a_linearised_operator():
    params, batch = mlp_params(5, 4, 3), examples(40, 5, 3)
    op = cv.hessian(loss, params, batch)
    plain, again = (cv.spectrum(o, jax.random.key(0), 10) for o in (op, linearized(op)))
    assert_allclose(plain.nodes, again.nodes, atol=1e-6)
    assert_allclose(linearized(op).to_dense(), op.to_dense(), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_the_plain_engine_interprets_nothing(way, monkeypatch):
    """Products are the same, none is linearised, and no jaxpr is evaluated."""
    params, batch = conv_problem()
    data = cv.Batches(batch, 5)
    H, G = cv.hessian(conv_loss, params, data), cv.gauss_newton(conv_predict, criterion, params, data)
    vector = jax.device_put(np.float32(np.random.default_rng(0).normal(size=H.size)))
    expected = [op(vector) for op in (H, G)]

    def interpret(*args):
        raise AssertionError("a jaxpr is interpreted")

    for module, name in ((convolution, "_evaluate"), (convolution, "run_equations"), (linearize, "run_equations")):
        monkeypatch.setattr(module, name, interpret)
    if way == "environment":
        jax.clear_caches()
        monkeypatch.setenv("HESSFLAT_LINEARIZE", "plain")
    plain = [cv.linearize(op, engine="plain" if way == "argument" else None) for op in (H, G)]
    for op, product in zip(plain, expected, strict=True):
        assert not any(isinstance(term, LinearizedTerm) for term in op.terms)
        assert loop_for(op) == "python"  # convolutions are what differentiation has made of them
        assert_allclose(op(vector), product, atol=1e-6)
    assert_allclose(cv.eigvalsh(plain[1])[-1], cv.sharpness(plain[1], jax.random.key(0)).value, rtol=1e-4)
    jax.clear_caches()  # of what was compiled with the variable set


def test_an_engine_that_does_not_exist_or_comes_too_late():
    op = cv.hessian(loss, mlp_params(5, 4, 3), examples(11, 5, 3))
    with pytest.raises(InputError, match="engine must be 'jaxpr' or 'plain', got 'fast'"):
        cv.linearize(op, engine="fast")
    with pytest.raises(InputError, match="choose the plain engine before"):
        cv.linearize(linearized(op), engine="plain")
