import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    conv_predict,
    conv_problem,
    criterion,
    examples,
    losses,
    mlp_params,
    operator_of,
    predict,
    softmax_regression_hessian,
    symmetric,
)
from curvature_cases import loss as softmax_loss
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.exact import gram
from hessflat.curvature.exact.dense import exact_spectrum
from hessflat.utils import compat
from hessflat.utils.errors import InputError


def linear(params, batch):
    return batch["x"] @ params["w"]


def half_squares(outputs, batch):
    return 0.5 * jnp.mean((outputs - batch["y"]) ** 2)


def least_squares(number, features, seed=0, batch_size=None):
    rng = np.random.default_rng(seed)
    data = {"x": jax.device_put(np.float32(rng.normal(size=(number, features)))), "y": jnp.zeros(number)}
    return cv.gauss_newton(linear, half_squares, {"w": jnp.zeros(features)}, cv.Batches(data, batch_size)), data["x"]


def dense_float64(op):
    """By NumPy, from products alone."""
    columns = [np.asarray(op(jnp.zeros(op.size, op.dtype).at[i].set(1)), np.float64) for i in range(op.size)]
    return np.linalg.eigvalsh(np.stack(columns))


def test_every_eigenvalue_of_softmax_regression():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    expected = np.linalg.eigvalsh(softmax_regression_hessian(params, batch))
    values = cv.eigvalsh(cv.hessian(softmax_loss, params, cv.Batches(batch, 8)))
    assert values.dtype == np.float64
    assert_allclose(values, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 3])
def test_gram_side_gives_the_dense_eigenvalues(batch_size):
    params, batch = mlp_params(12, 6, 4), examples(7, 12, 4)
    G = cv.gauss_newton(predict, criterion, params, cv.Batches(batch, batch_size))
    dense = np.linalg.eigvalsh(np.asarray(G.to_dense(), np.float64))
    assert G.size > 7 * 4
    assert_allclose(cv.eigvalsh(G), dense, atol=2e-6)
    assert_allclose(cv.eigvalsh(3 - 2 * G), np.sort(3 - 2 * dense), atol=5e-6)


def test_gram_side_takes_a_criterion_that_is_not_convex():
    def saddle(outputs, batch):
        return jnp.mean(outputs[:, 0] ** 2 - outputs[:, 1] ** 2 + outputs[:, 0] * outputs[:, 2])

    params, batch = mlp_params(12, 4), examples(5, 12, 4)
    G = cv.gauss_newton(predict, saddle, params, batch)
    dense = np.linalg.eigvalsh(np.asarray(G.to_dense(), np.float64))
    assert dense[0] < -0.1
    assert_allclose(cv.eigvalsh(G), dense, atol=1e-5)


def test_gram_side_of_a_convolution():
    params, batch = conv_problem(5)
    G = cv.gauss_newton(conv_predict, criterion, params, batch)
    assert_allclose(cv.eigvalsh(G), np.linalg.eigvalsh(np.asarray(G.to_dense(), np.float64)), atol=1e-6)


def test_more_outputs_than_parameters_are_solved_densely():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    expected = np.linalg.eigvalsh(softmax_regression_hessian(params, batch))
    assert_allclose(cv.eigvalsh(cv.gauss_newton(predict, criterion, params, batch)), expected, atol=1e-6)


def test_a_known_matrix():
    true = np.sort(np.random.default_rng(0).normal(size=40))
    assert_allclose(cv.eigvalsh(operator_of(symmetric(true))), true, atol=2e-6)


def test_too_large_names_the_alternative():
    op = cv.from_matvec(lambda v: v, jnp.zeros(20_001))
    with pytest.raises(InputError, match="use spectrum or eigenpairs instead"):
        cv.eigvalsh(op)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        cv.eigvalsh(operator_of(np.diag([1.0, np.nan])))


def test_dense_matrix_in_float64():
    with jax.enable_x64(True):
        matrix = symmetric(np.linspace(-1, 1, 37))
        assert_allclose(operator_of(matrix, np.float64).to_dense(), matrix, atol=1e-15)


def test_numbers_of_the_record():
    true = np.array([-2.0, 0, 0, 1, 3])
    found = exact_spectrum(operator_of(np.diag(true)))
    assert_allclose(found.values, true, atol=1e-6)
    assert (found.size, found.rank, found.method, found.num_products, found.precision) == (5, 3, "dense", 5, "highest")
    assert_allclose([found.trace, found.mean_eigenvalue, found.second_moment], [2, 0.4, 14 / 5], rtol=1e-6)
    assert_allclose([found.frobenius, found.zero_mass()], [14**0.5, 0.4], rtol=1e-6)
    assert_allclose(found.noise_floor, 3 * np.finfo(np.float32).eps, rtol=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [None, 1, 4, 7])
def test_the_gram_side_is_the_closed_form(batch_size, seed):
    op, x = least_squares(11, 50, seed, batch_size)
    found = exact_spectrum(op)
    x = np.asarray(x, np.float64)
    assert found.method == "gram"
    assert found.num_products == 11
    assert_allclose(found.values[-11:], np.linalg.eigvalsh(x @ x.T / 11), rtol=1e-6)
    assert not found.values[:-11].any()
    assert (found.size, found.rank) == (50, 11)


def test_the_gram_side_in_float64_of_a_float32_operator():
    op, x = least_squares(11, 50)
    x = np.asarray(x, np.float64)
    assert_allclose(exact_spectrum(op, float64=True).values[-11:], np.linalg.eigvalsh(x @ x.T / 11), rtol=1e-13)
    assert not compat.setting("jax_enable_x64")


def test_a_dense_matrix_in_float64_of_a_float32_operator():
    params, batch = mlp_params(6, 4), examples(20, 6, 4)
    expected = np.linalg.eigvalsh(softmax_regression_hessian(params, batch))
    found = exact_spectrum(cv.hessian(softmax_loss, params, cv.Batches(batch, 8)), float64=True)
    assert_allclose(found.values, expected, atol=1e-15)
    assert found.noise_floor < 1e-15


@pytest.mark.parametrize("limits", [(1, 1, 1), (3000, 100, 1000), (10_000, 10_000, 1 << 20)])
def test_blocks_and_copies_of_any_size_give_the_same(monkeypatch, limits):
    params, batch = mlp_params(12, 6, 4), examples(7, 12, 4)
    G = cv.gauss_newton(predict, criterion, params, cv.Batches(batch, 3))
    expected = dense_float64(G)
    for name, limit in zip(("_BLOCK_BYTES", "DEVICE_BYTES", "_COPY_BYTES"), limits, strict=True):
        monkeypatch.setattr(gram, name, limit)
    assert_allclose(cv.eigvalsh(G), expected, atol=2e-6)


def test_the_gram_side_of_a_fisher_matrix():
    params, batch = mlp_params(12, 6, 4), examples(7, 12, 4)
    found = exact_spectrum(cv.fisher(losses, params, cv.Batches(batch, 3)))
    rows = jax.jit(jax.jacrev(losses))(params, batch)
    gradients = np.concatenate([np.reshape(leaf, (7, -1)) for leaf in jax.tree.leaves(rows)], axis=1)
    assert found.method == "gram"
    assert_allclose(found.values[-7:], np.linalg.eigvalsh(np.inner(gradients, gradients) / 7), rtol=1e-4, atol=1e-7)


def test_the_gram_side_with_state():
    def scaled(params, batch, state):
        return state["scale"] * linear(params, batch)

    def criterion_with_state(outputs, batch, state):
        return half_squares(outputs, batch) / state["scale"]

    op, x = least_squares(11, 50)
    (term,) = op.terms
    op = cv.gauss_newton(scaled, criterion_with_state, term.params, term.batches, state={"scale": jnp.asarray(3.0)})
    x = np.asarray(x, np.float64)
    assert_allclose(exact_spectrum(op).values[-11:], 3 * np.linalg.eigvalsh(x @ x.T / 11), rtol=1e-6)


def centred(params, batch):
    """As batch norm: outputs depend on the whole batch."""
    outputs = jnp.tanh(batch["x"] @ params["w"])
    return outputs - outputs.mean(axis=0, keepdims=True)


def weighted(outputs, batch):
    return 0.5 * jnp.sum(batch["weight"] * outputs**2) / jnp.sum(batch["weight"])


@pytest.mark.parametrize(
    ("predict", "criterion", "cut"),
    [(centred, half_squares, {}), (linear, weighted, {}), (linear, weighted, {"batch_size": 4, "weights": "weight"})],
)
def test_the_gram_side_of_examples_that_are_coupled(predict, criterion, cut):
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(11, 30)), "y": np.zeros(11), "weight": rng.uniform(1, 2, size=11)}
    data = jax.tree.map(lambda x: jnp.asarray(x, np.float32), data)
    op = cv.gauss_newton(predict, criterion, {"w": 0.1 * jnp.ones(30)}, cv.Batches(data, **cut))
    found = exact_spectrum(op)
    assert found.method == "gram"
    assert_allclose(found.values, dense_float64(op), atol=2e-6)


def test_the_gram_side_of_statistics_over_batches():
    rng = np.random.default_rng(0)
    data = {"x": jax.device_put(np.float32(rng.normal(size=(11, 30)))), "y": jnp.zeros(11)}
    batches = cv.Batches(data, batch_size=8, statistics_batch=4)
    op = cv.gauss_newton(centred, half_squares, {"w": 0.1 * jnp.ones(30)}, batches)
    assert_allclose(exact_spectrum(op).values, dense_float64(op), atol=2e-6)


def test_other_operators_are_solved_densely():
    params, batch = mlp_params(12, 6, 4), examples(7, 12, 4)
    G = cv.gauss_newton(predict, criterion, params, batch)
    for op in (cv.hessian(softmax_loss, params, batch) - G, cv.linearize(G)):
        found = exact_spectrum(op)
        assert found.method == "dense"
        assert_allclose(found.values, dense_float64(op), atol=3e-6)


def test_a_criterion_without_a_second_derivative_is_refused():
    op = cv.gauss_newton(linear, lambda f, batch: jnp.mean(jnp.sqrt(f)), {"w": jnp.zeros(5)}, {"x": jnp.ones((2, 5))})
    with pytest.raises(InputError, match="not finite"):
        exact_spectrum(op)


def pairs_apart(outputs, batch):
    """Half of Σ ‖f_i‖² / N, and of the squared distances of the pairs that share an identity."""
    same = batch["id"][:, None] == batch["id"][None, :]
    apart = (outputs[:, None] - outputs[None, :]) ** 2
    return 0.5 * (jnp.mean(outputs**2) + jnp.sum(jnp.where(same, apart, 0)) / len(outputs))


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 20, 70, 258])
def test_coupling_of_any_two_examples_makes_the_method_dense(first):
    """Jᵀ D J with D = (I + 2 L) / N and L the Laplacian of the pairs: a closed form in NumPy."""
    number, size = first + 2, 300
    identity = np.arange(number)
    identity[first + 1] = identity[first]
    x = np.random.default_rng(0).normal(size=(number, size))
    op = cv.gauss_newton(linear, pairs_apart, {"w": jnp.ones(size)}, {"x": jnp.asarray(x, jnp.float32), "id": identity})
    coupled = np.zeros((number, number))
    coupled[first:, first:] = [[1, -1], [-1, 1]]
    expected = x.T @ (np.eye(number) + 2 * coupled) @ x / number
    found = exact_spectrum(op)
    assert found.method == ("gram" if first == 0 else "dense")  # two examples are tested whole
    assert_allclose(found.values, np.linalg.eigvalsh(expected), atol=2e-5 * found.values[-1])


def test_saturated_outputs_keep_the_gram_side():
    """Probabilities within 1e-6 of 0 and 1, where rounding makes products differ by far more than ε."""
    params, batch = mlp_params(40, 10, 4), examples(9, 40, 4)
    params = [tuple(10 * leaf for leaf in layer) for layer in params]
    op = cv.gauss_newton(predict, criterion, params, batch)
    assert exact_spectrum(op).method == "gram"
