"""Diagonals, solutions, tangent kernels: against dense matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, mlp_params, predict
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.utils.errors import InputError


@pytest.fixture(scope="module")
def problem():
    params, data = mlp_params(5, 4, 3), cv.Batches(examples(23, 5, 3), 10)
    return cv.hessian(loss, params, data), cv.gauss_newton(predict, criterion, params, data)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def dense(op):
    with jax.enable_x64(True):
        return np.asarray(op.astype(np.float64).to_dense())


@pytest.mark.long
def test_the_exact_diagonal_is_that_of_the_dense_matrix(problem):
    _, G = problem
    weights = jnp.arange(23.0) % 4
    weighted = cv.fisher(
        lambda w, batch: jnp.square(predict(w, batch)).sum(axis=1),
        G.params,
        cv.Batches(examples(23, 5, 3), 10, weights=weights),
    )
    for op in (0.5 * G + weighted + 2.0, cv.preconditioned(G, jax.tree.map(lambda p: 1 + p**2, G.params))):
        found = cv.diagonal(op, method="exact")
        expected = np.diagonal(np.asarray(op.to_dense(), np.float64))
        assert_allclose(flat(found.values), expected, atol=2e-6 * np.abs(expected).max())
        assert not flat(found.standard_errors).any()
    assert cv.diagonal(G, method="exact").num_products == 23 * 3


@pytest.mark.slow
def test_random_diagonals_are_within_their_standard_errors(problem):
    for op, num_products in ((problem[0] + 3.0, 24), (problem[1], 20)):
        expected = np.diagonal(dense(op))
        for method in ("hutchinson", "xdiag"):
            scores = []
            for seed in range(8):
                found = cv.diagonal(op, jax.random.key(seed), num_products, method)
                scores.append((flat(found.values) - expected) / (flat(found.standard_errors) + 1e-6))
            assert 0.7 < np.sqrt(np.mean(np.square(scores))) < 1.4
    # Of rank below half the products, XDiag is exact.
    low = cv.from_matvec(lambda v, x: x.T @ (x @ v), jnp.zeros(40), jax.random.normal(jax.random.key(0), (5, 40)))
    found = cv.diagonal(low, jax.random.key(1), 16, "xdiag")
    assert_allclose(flat(found.values), np.diagonal(dense(low)), rtol=1e-4)
    assert found.num_products == 13


def test_of_few_parameters_xdiag_takes_the_exact_diagonal_where_signs_are_dependent():
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)), jnp.float32)
    matrix = matrix + matrix.T
    op = cv.from_matvec(lambda v, m: m @ v, jnp.zeros(5), matrix)
    products = []
    for seed in (0, 54, 61, 77):
        found = cv.diagonal(op, jax.random.key(seed), 4, "xdiag")
        products.append(found.num_products)
        if not flat(found.standard_errors).any():
            assert_allclose(flat(found.values), np.diagonal(matrix), atol=1e-5)
    assert products == [4, 5, 5, 5]
    few = cv.from_matvec(lambda v, m: m @ v, jnp.zeros(2), matrix[:2, :2])
    found = cv.diagonal(few + 1.0, jax.random.key(0), 4, "xdiag")
    assert_allclose(flat(found.values), np.diagonal(matrix)[:2] + 1, atol=1e-5)
    assert found.num_products == 2


@pytest.mark.slow
def test_solutions_are_those_of_the_dense_system(problem):
    H, G = problem
    b = jax.random.normal(jax.random.key(0), (G.size,))
    near = cv.nystrom(G, jax.random.key(1), 12)
    assert_allclose(near.values[:3], np.linalg.eigvalsh(dense(G))[:-4:-1], rtol=0.05)
    steps = {}
    for name, op, method, given in (
        ("cg", G, "cg", None),
        ("preconditioned", G, "cg", near),
        ("minres", G, "minres", None),
        ("preconditioned minres", G, "minres", near),
        ("indefinite", H, "minres", None),
    ):
        found = cv.solve(op, b, 1e-2, method, 1e-5, 300, given)
        matrix = dense(op) + 1e-2 * np.eye(op.size)
        expected = np.linalg.solve(matrix, np.asarray(b, np.float64))
        assert_allclose(found.x, expected, atol=1e-4 * np.abs(expected).max())
        left = np.linalg.norm(b - matrix @ np.asarray(found.x, np.float64)) / np.linalg.norm(b)
        assert found.converged
        assert abs(left - found.residual) < 2e-6
        steps[name] = found.num_steps
    assert steps["preconditioned"] < 0.7 * steps["cg"]


def test_trees_loops_and_scales_make_no_difference(problem):
    _, G = problem
    b = jax.tree.map(jnp.ones_like, G.params)
    found = cv.solve(G, b, 1.0)
    again = cv.solve(G * 1e-20, b, 1e-20, loop="python")
    assert found.num_steps == again.num_steps
    assert_allclose(flat(again.x) * 1e-20, flat(found.x), rtol=1e-4)
    assert not flat(cv.solve(G, jax.tree.map(jnp.zeros_like, b), 1.0).x).any()


def test_what_cannot_be_solved_is_refused(problem):
    H, G = problem
    b = jnp.ones(H.size)
    with pytest.raises(InputError, match="not positive definite"):
        cv.solve(H - 1.0, b)
    with pytest.raises(InputError, match="scale b down"):
        cv.solve(G, np.full(H.size, 2e37, np.float32))
    with pytest.raises(InputError, match="not finite"):
        cv.solve(G, np.full(H.size, 1e38, np.float32))
    with pytest.raises(InputError, match="preconditioner must be"):
        cv.solve(G, b, preconditioner=lambda v: v)
    other = cv.nystrom(cv.from_matvec(lambda v: v, jnp.zeros(3)), jax.random.key(0), 2)
    with pytest.raises(InputError, match=f"an operator with the same {H.size} parameters"):
        cv.solve(G, b, preconditioner=other)
    with pytest.raises(InputError, match="needs a key"):
        cv.diagonal(G)
    assert not cv.solve(H, b, method="minres", max_steps=2).converged


@pytest.mark.slow
def test_the_tangent_kernel_is_the_product_of_jacobians(problem):
    _, G = problem
    data = examples(23, 5, 3)
    kernel = cv.ntk(predict, G.params, cv.Batches(data, 10))
    rows = jax.jacobian(lambda w: predict(w, data).ravel())(G.params)
    J = np.concatenate([np.asarray(leaf, np.float64).reshape(69, -1) for leaf in jax.tree.leaves(rows)], axis=1)
    assert_allclose(kernel.matrix, J @ J.T, atol=1e-5 * np.abs(kernel.matrix).max())
    assert_allclose(kernel.values[-39:], np.linalg.eigvalsh(J.T @ J), atol=1e-4)
    mean = sum(J[c::3] @ J[c::3].T for c in range(3)) / 3
    assert_allclose(kernel.over_examples, mean, atol=1e-4)
    x, y = np.asarray(data["x"], np.float64), np.asarray(data["y"])
    same = np.equal.outer(y, y) * 1.0
    centre = np.eye(23) - 1 / 23
    k, t = centre @ mean @ centre, centre @ same @ centre
    assert kernel.alignment(y) == pytest.approx(np.sum(k * t) / np.linalg.norm(k) / np.linalg.norm(t), rel=1e-5)
    assert kernel.alignment(same @ np.ones(23), centred=False) <= 1
    for size in (1e-200, 1e200):
        assert kernel.alignment(size * x) == pytest.approx(kernel.alignment(x), rel=1e-6)
    with pytest.raises(InputError, match="targets must be finite"):
        kernel.alignment(np.where(np.arange(23) == 3, np.nan, 1.0))
    with pytest.raises(InputError, match="targets must be"):
        kernel.alignment(y[:5])
