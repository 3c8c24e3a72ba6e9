from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    conv_loss,
    conv_problem,
    criterion,
    examples,
    loss,
    losses,
    mlp_params,
    operator_of,
    predict,
    softmax_regression_hessian,
    symmetric,
)
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.operators import operator
from hessflat.curvature.operators.terms import loop_for
from hessflat.utils.errors import InputError


@pytest.fixture(scope="module")
def problem():
    return mlp_params(5, 4, 3), examples(11, 5, 3)


def test_softmax_regression_hessian_is_the_closed_form():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    expected = softmax_regression_hessian(params, batch)
    assert_allclose(cv.hessian(loss, params, batch).to_dense(), expected, atol=1e-6)


def test_gauss_newton_of_softmax_regression_is_its_hessian():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    expected = softmax_regression_hessian(params, batch)
    assert_allclose(cv.gauss_newton(predict, criterion, params, batch).to_dense(), expected, atol=1e-6)


def test_products_are_finite_differences_of_the_gradient():
    with jax.enable_x64(True):
        params, batch = mlp_params(5, 4, 3, dtype=np.float64), examples(11, 5, 3, dtype=np.float64)
        vector = mlp_params(5, 4, 3, seed=9, dtype=np.float64)
        step = 1e-5
        gradient = jax.jit(jax.grad(loss))
        gradients = [
            gradient(jax.tree.map(lambda p, v, s=sign: np.asarray(p) + s * step * np.asarray(v), params, vector), batch)
            for sign in (1, -1)
        ]
        expected = jax.tree.map(lambda up, down: (np.asarray(up) - np.asarray(down)) / (2 * step), *gradients)
        jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-9), cv.hessian(loss, params, batch)(vector), expected)


def test_gauss_newton_is_the_jacobian_sandwich(problem):
    params, batch = problem
    flat, unravel = ravel_pytree(params)
    jacobian = np.asarray(jax.jit(jax.jacfwd(lambda p: predict(unravel(p), batch)))(flat), np.float64)
    p = np.asarray(jax.jit(lambda params: jax.nn.softmax(predict(params, batch)))(params), np.float64)
    expected = sum(j.T @ (np.diag(q) - np.outer(q, q)) @ j for j, q in zip(jacobian, p, strict=True)) / len(p)
    assert_allclose(cv.gauss_newton(predict, criterion, params, batch).to_dense(), expected, atol=1e-6)


def test_fisher_is_the_mean_of_gradient_outer_products(problem):
    params, batch = problem
    flat, unravel = ravel_pytree(params)
    gradients = np.asarray(jax.jit(jax.jacrev(lambda p: losses(unravel(p), batch)))(flat), np.float64)
    expected = gradients.T @ gradients / len(gradients)
    assert_allclose(cv.fisher(losses, params, batch).to_dense(), expected, atol=1e-6)
    vector = np.ones(len(expected), np.float32)
    assert_allclose(cv.fisher(losses, params, cv.Batches(batch, 4))(vector), expected @ vector, atol=3e-6)


@pytest.mark.parametrize("loop", ["scan", "python"])
@pytest.mark.parametrize("batch_size", [32, 500])
def test_unequal_batches_give_the_full_batch(batch_size, loop):
    params, batch = mlp_params(6, 4), examples(101, 6, 4)
    expected = softmax_regression_hessian(params, batch)
    op = cv.hessian(loss, params, cv.Batches(batch, batch_size))
    vector = np.random.default_rng(0).normal(size=op.size)
    vector32 = jax.device_put(np.float32(vector))
    product = op(vector32) if loop == "scan" else operator.matvec(op, operator.layout_of(op), vector32, loop)
    assert_allclose(product, expected @ vector, atol=3e-6)


def test_products_keep_the_kind_of_the_vector(problem):
    params, batch = problem
    op = cv.hessian(loss, params, batch)
    flat, unravel = ravel_pytree(mlp_params(5, 4, 3, seed=5))
    tree = op(unravel(flat))
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    assert_allclose(op(flat), ravel_pytree(tree)[0], rtol=1e-5, atol=1e-7)
    assert op(np.asarray(flat, np.float64)).dtype == jnp.float32


def test_operators_compose(problem):
    params, batch = problem
    H, G = cv.hessian(loss, params, batch), cv.gauss_newton(predict, criterion, params, batch)
    v = jax.device_put(np.float32(np.random.default_rng(0).normal(size=H.size)))
    h, g = H(v), G(v)
    cases = {
        "difference": (H - G, h - g),
        "sum": (H + 2 * G, h + 2 * g),
        "negative": (-(H + 1.0), -h - v),
        "number on the left": (3 - H, 3 * v - h),
        "NumPy number on the left": (np.float64(2) * H, 2 * h),
        "JAX number": (jnp.float32(0.5) * H + jnp.float32(0.1), 0.5 * h + 0.1 * v),
        "nested": (0.5 * ((H - G) * 2 + 1e-2), h - g + 0.5e-2 * v),
    }
    for name, (op, expected) in cases.items():
        assert_allclose(op(v), expected, atol=3e-6, err_msg=name)


def test_a_number_is_the_hessian_of_weight_decay(problem):
    params, batch = problem

    def decayed(params, batch):
        return loss(params, batch) + 0.5 * 0.3 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

    expected = cv.hessian(decayed, params, batch).to_dense()
    assert_allclose((cv.hessian(loss, params, batch) + 0.3).to_dense(), expected, atol=1e-6)


def test_astype_takes_products_in_float64(problem):
    params, batch = problem
    with jax.enable_x64(True):
        op = cv.hessian(loss, params, batch).astype(np.float64)
        assert op(np.ones(op.size)).dtype == np.float64
        assert_allclose(op.to_dense(), op.to_dense().T, atol=1e-15)
    with pytest.raises(InputError, match="enable_x64"):
        cv.hessian(loss, params, batch).astype(np.float64)


@pytest.mark.slow
def test_convolutions_are_compiled_into_the_loop_and_agree():
    params, batch = conv_problem()
    op = cv.hessian(conv_loss, params, cv.Batches(batch, 5))
    assert loop_for(op) == "scan"
    vector = jax.device_put(np.float32(np.random.default_rng(0).normal(size=op.size)))
    whole = cv.hessian(conv_loss, params, batch)
    assert_allclose(op(vector), operator.matvec_compiled(op, operator.layout_of(op), vector), atol=1e-6)
    assert_allclose(op(vector), whole(vector), atol=1e-6)
    assert_allclose(op.to_dense() @ vector, whole(vector), atol=1e-5)


def test_operators_pass_through_jit_as_arguments(problem):
    params, batch = problem
    op = cv.hessian(loss, params, cv.Batches(batch, 4))
    vector = jnp.ones(op.size)
    assert_allclose(jax.jit(lambda op, v: op(v))(op, vector), op(vector), rtol=1e-5, atol=1e-7)


def test_a_second_checkpoint_does_not_compile_again():
    batch, key = examples(11, 5, 3), jax.random.key(0)
    traced = deque()  # known to the hash of a function by identity alone, whatever it holds

    def counted(params, batch):
        traced.append(1)
        return loss(params, batch)

    def measure(seed):
        op = cv.hessian(counted, mlp_params(5, 4, 3, seed=seed), batch)
        cv.spectrum(op, key, num_steps=5, num_probes=1 + seed)
        cv.sharpness(op, key)
        cv.trace(op, key)
        cv.eigvalsh(-op)
        return op(jnp.ones(op.size))

    measure(0)
    before = len(traced)
    measure(1)
    assert len(traced) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, b: cv.hessian(loss, [], b), "params must be a tree of arrays, got one without leaves"),
        (lambda p, b: cv.hessian(loss, {"a": 1.0}, b), r"params\['a'\] must be an array, got float"),
        (lambda p, b: cv.hessian(loss, jax.tree.map(lambda x: x * jnp.nan, p), b), r"params\[0\]\[0\] must be finite"),
        (lambda p, b: cv.hessian(loss, {"a": jnp.arange(3)}, b), r"params\['a'\] must be real floating point"),
        (lambda p, b: cv.hessian(loss, p, b | {"x": b["x"] / 0}), r"data\['x'\] must be finite, got"),
        (lambda p, b: cv.hessian(loss, p, b | {"y": b["y"][:3]}), "same leading example axis"),
        (lambda p, b: cv.hessian(loss, p, b | {"n": jnp.ones(())}), "same leading example axis"),
        (lambda p, b: cv.hessian(loss, p, {k: v[:0] for k, v in b.items()}), "at least one example, got 0"),
        (lambda p, b: cv.hessian(loss, p, cv.Batches(b, 0)), "batch_size must be a whole number"),
        (lambda p, b: cv.hessian(predict, p, b), r"must be a scalar, the mean over the batch, got shape \(11, 3\)"),
        (lambda p, b: cv.hessian(lambda p, b: (loss(p, b), 0), p, b), "must be a scalar, .* got a tree"),
        (lambda p, b: cv.hessian(loss, p[1:], b), "cannot be evaluated: TypeError"),
        (
            lambda p, b: cv.hessian(lambda p, b: True, p, b),
            r"loss\(params, batch\) must be real floating point, got bool",
        ),
        (lambda p, b: cv.hessian(lambda p, b: b["y"].sum(), p, b), "must be real floating point, got int32"),
        (lambda p, b: cv.hessian(lambda p, b: loss(p, b) + 0j, p, b), "must be real floating point, got complex64"),
        (lambda p, b: cv.gauss_newton(predict, lambda f, b: 1, p, b), r"criterion\(outputs, batch\) must be real floa"),
        (lambda p, b: cv.fisher(loss, p, b), r"must have shape \(11,\) or more axes, got shape \(\)"),
        (lambda p, b: cv.gauss_newton(predict, predict, p, b), "cannot be evaluated"),
        (lambda p, b: cv.hessian(loss, p, b)(jnp.ones(3)), r"flat vector must have shape \(39,\), got \(3,\)"),
        (lambda p, b: cv.hessian(loss, p, b)(np.ones(39, int)), "vector must be real floating point"),
        (lambda p, b: cv.hessian(loss, p, b)(p[1:]), "vector must have the structure"),
        (
            lambda p, b: cv.hessian(loss, p, b)([p[0], (p[1][0].T, p[1][1])]),
            r"vector.* must have shape \(4, 3\)",
        ),
        (lambda p, b: cv.hessian(loss, p, b) + "1", "another operator or a number, got str"),
        (
            lambda p, b: cv.hessian(loss, p, b) + operator_of(symmetric([1, 2])),
            "operator must have the structure",
        ),
        (lambda p, b: cv.spectrum(cv.hessian(loss, p, b), jax.random.key(0), loop="for"), "loop must be"),
        (lambda p, b: cv.from_matvec(lambda v: v[:2], jnp.ones(3)), "structure and shapes of params"),
    ],
)
def test_wrong_input_is_one_line(problem, make, message):
    with pytest.raises(InputError, match=message) as caught:
        make(*problem)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "two",
    [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.uint8(2), np.array(2.0), jnp.float32(2), jnp.asarray(2)],
)
def test_algebra_with_numbers_of_every_kind(two):
    matrix, v = symmetric([3, 1, -1], seed=4), np.float32([1, 2, 3])
    A = operator_of(matrix)
    for op, exact in (
        (A / two, matrix / 2),
        (A * two, 2 * matrix),
        (two * A, 2 * matrix),
        (A + two, matrix + 2 * np.eye(3)),
        (two - A, 2 * np.eye(3) - matrix),
        (A - two, matrix - 2 * np.eye(3)),
        (-A / two + A, matrix / 2),
    ):
        assert_allclose(op.to_dense(), exact, atol=1e-5)
    for product in (A @ v, v @ A, A @ jnp.asarray(v), jnp.asarray(v) @ A):
        assert_allclose(product, matrix @ v, atol=1e-5)
    assert_allclose(jax.jit(lambda op, c: (op / c) @ jnp.asarray(v))(A, two), matrix @ v / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda A: A @ A, "product of two operators is not symmetric"),
        (lambda A: A / A, "takes another operator or a number, got Operator"),
        (lambda A: A * A, "takes another operator or a number, got Operator"),
        (lambda A: 1 / A, "has no inverse here"),
        (lambda A: A / 0, "that is not 0"),
        (lambda A: A / np.float32(0), "that is not 0"),
        (lambda A: A * 1j, "got complex"),
        (lambda A: A * np.complex64(1), "a real number, got one of type complex64"),
        (lambda A: A + True, "got bool"),
        (lambda A: A * np.ones(3), r"got an array of shape \(3,\)"),
        (lambda A: jnp.ones(3) + A, r"got an array of shape \(3,\)"),
        (lambda A: A @ np.ones((3, 2), np.float32), "vector must have shape"),
        (lambda A: A @ "v", "vector must have shape"),
    ],
)
def test_algebra_that_makes_no_operator_is_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make(operator_of(symmetric([3, 1, -1])))
    assert "\n" not in str(caught.value)


def test_products_may_be_differentiated():
    """∂/∂v vᵀHv = 2 H v, and ∂/∂w vᵀH(w)v is that of a product by hand, for layers of unlike widths."""
    keys = jax.random.split(jax.random.key(0), 4)
    w = {"a": jax.random.normal(keys[0], (9, 4)), "b": jax.random.normal(keys[1], (4, 2))}
    data = {"x": jax.random.normal(keys[2], (70, 9)), "y": jnp.ones((70, 2))}
    v = jax.tree.map(lambda p: jax.random.normal(keys[3], p.shape), w)

    def loss(w, batch):
        return jnp.mean((jnp.tanh(batch["x"] @ w["a"]) @ w["b"] - batch["y"]) ** 2)

    def along(product, v):
        return sum(map(jnp.vdot, jax.tree.leaves(v), jax.tree.leaves(product(v))))

    def by_hand(w):
        return lambda v: jax.jvp(jax.grad(lambda w: loss(w, data)), (w,), (v,))[1]

    def close(found, expected):
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert_allclose(x, y, rtol=1e-4, atol=1e-5)

    op = cv.hessian(loss, w, data)
    for own in (op, cv.linearize(op)):
        close(jax.grad(lambda v: along(own, v))(v), jax.tree.map(lambda x: 2 * x, by_hand(w)(v)))  # noqa: B023
    through = jax.grad(lambda w: along(cv.hessian(loss, w, data), v))(w)
    close(through, jax.grad(lambda w: along(by_hand(w), v))(w))
