"""Forms of single examples beside dense matrices; λ_max of subsets beside that of all, which NumPy knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import examples, losses_of, mlp_params, predict, softmax_regression_hessian
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.sampling import quadratic_forms, subset_error, subset_sharpness
from hessflat.utils.errors import InputError


def vector_like(params, seed=3):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), params)


def test_forms_are_those_of_each_examples_dense_hessian():
    params, batch = mlp_params(5, 3), examples(7, 5, 3)
    vector = vector_like(params)
    found = quadratic_forms(predict, losses_of, params, vector, cv.Batches(batch, 3))
    v = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(vector)]).astype(float)
    x, (w, b) = np.asarray(batch["x"], float), (np.asarray(leaf, float) for leaf in params[0])
    for i in range(7):
        one = {name: np.asarray(array)[i : i + 1] for name, array in batch.items()}
        # Leaves are weights before biases here, as in the matrix.
        hessian = softmax_regression_hessian(params, one)
        assert_allclose(found.hessian[i], v @ hessian @ v, rtol=1e-4)
        scores = x[i] @ w + b
        error = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum() - np.eye(3)[int(one["y"][0])]
        assert_allclose(found.gradient[i], v @ np.concatenate([np.outer(x[i], error).ravel(), error]), rtol=1e-4)
    # A model that is linear in its parameters has no residual.
    assert_allclose(found.gauss_newton, found.hessian, rtol=1e-4)


def test_forms_of_a_deeper_network_are_second_differences():
    params, batch = mlp_params(5, 4, 3), examples(6, 5, 3)
    vector = vector_like(params)
    with jax.enable_x64(True):
        wide = [jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree) for tree in (params, vector)]
        data = {"x": jnp.asarray(batch["x"], jnp.float64), "y": batch["y"]}
        at = [
            np.asarray(losses_of(predict(jax.tree.map(lambda w, v, t=t: w + t * v, *wide), data), data))
            for t in (-1e-4, 0.0, 1e-4)
        ]
    found = quadratic_forms(predict, losses_of, params, vector, batch)
    assert_allclose(found.gradient, (at[2] - at[0]) / 2e-4, rtol=1e-4, atol=1e-5)
    assert_allclose(found.hessian, (at[2] - 2 * at[1] + at[0]) / 1e-8, rtol=1e-3, atol=1e-3)
    assert np.abs(found.hessian - found.gauss_newton).max() > 0.01


def test_the_error_of_a_mean_without_replacement():
    assert_allclose(subset_error(np.array([1.0, 3.0]), 8), np.sqrt((1 - 2 / 8) * 2 / 2))
    assert subset_error(np.array([1.0, 3.0]), 2) == 0
    with pytest.raises(InputError, match="population must be at least the 2 samples, got 1"):
        subset_error(np.array([1.0, 3.0]), 1)


def line(params, batch):
    return batch["x"] @ params


def squares(outputs, batch):
    return 0.5 * (outputs - batch["y"]) ** 2


def mean_square(params, batch):
    return jnp.mean(squares(line(params, batch), batch))


def sharpness_of_subset(x, chosen, **options):
    """λ_max of X Xᵀ / n on the examples `chosen`, as the library finds it."""
    batch = {"x": jnp.asarray(x[chosen], jnp.float32), "y": jnp.zeros(len(chosen))}
    params = jnp.zeros(x.shape[1])
    return subset_sharpness(
        lambda part: cv.hessian(mean_square, params, part),
        batch,
        lambda vector: quadratic_forms(line, squares, params, vector, batch).hessian,
        len(x),
        jax.random.key(0),
        **options,
    )


def errors_of_subsets(scales, number, subsets=150):
    """λ_max less that of all 600, stated errors and biases [subsets], of Gaussian examples with these deviations."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, len(scales))) * scales
    expected = np.linalg.eigvalsh(x.T @ x / 600)[-1]
    found = [sharpness_of_subset(x, rng.choice(600, number, replace=False)) for _ in range(subsets)]
    columns = ([getattr(one, name) for one in found] for name in ("value", "standard_error", "bias"))
    value, error, bias = map(np.array, columns)
    return value - expected, error, bias


@pytest.mark.long
def test_intervals_cover_the_whole_where_the_eigenvalue_is_isolated():
    away, error, bias = errors_of_subsets([3.0, *np.linspace(1.2, 0.6, 11)], 100)
    # Of 150 intervals at 95 %, fewer than 130 cover with a probability of 1e-4.
    assert (np.abs(away - bias) < 1.96 * error).sum() >= 130
    assert_allclose(error.mean(), away.std(), rtol=0.2)


@pytest.mark.long
def test_intervals_cover_the_whole_in_a_dense_spectrum_for_their_bias_alone():
    away, error, bias = errors_of_subsets(np.linspace(1.6, 0.6, 40), 150)
    assert (np.abs(away - bias) < 1.96 * error).sum() >= 130
    assert (np.abs(away) < 1.96 * error).sum() < 100
    assert 0.4 * away.mean() < bias.mean() < away.mean()


def test_all_examples_have_no_error():
    x = np.random.default_rng(0).normal(size=(20, 4))
    found = sharpness_of_subset(x, np.arange(20), rtol=1e-5)
    assert_allclose(found.value, np.linalg.eigvalsh(x.T @ x / 20)[-1], rtol=1e-4)
    assert (found.standard_error, found.bias) == (0, 0)
    folds = [np.linalg.eigvalsh(x[i : i + 5].T @ x[i : i + 5] / 5)[-1] for i in (0, 5, 10, 15)]
    assert_allclose(found.folds, folds, rtol=1e-4)


def test_forms_of_something_else_are_refused():
    batch, params = {"x": jnp.eye(6)[:, :3], "y": jnp.zeros(6)}, jnp.zeros(3)
    with pytest.raises(InputError, match=r"the mean of forms\(u\) must be λ_max, .*, got 7"):
        subset_sharpness(
            lambda part: cv.hessian(mean_square, params, part),
            batch,
            lambda vector: np.full(6, 7.0),
            10,
            jax.random.key(0),
            num_folds=2,
        )


def test_a_search_that_does_not_end_gives_no_error():
    x = np.random.default_rng(0).normal(size=(40, 30))
    with pytest.raises(
        InputError, match=r"λ_max of 20 examples is not known to 1e-06 after 2 products; raise max_steps"
    ):
        sharpness_of_subset(x, np.arange(20), rtol=1e-6, max_steps=2)


def test_folds_of_a_remainder_are_of_so_many_examples():
    """7 examples make 4 folds of one: λ_max exceeds that of all by 6 times the bias of 7, less their share of 9."""
    x = np.random.default_rng(1).normal(size=(9, 3))
    found = sharpness_of_subset(x, np.arange(7), num_folds=4, rtol=1e-6)
    value = np.linalg.eigvalsh(x[:7].T @ x[:7] / 7)[-1]
    folds = [x[i] @ x[i] for i in range(4)]
    assert_allclose(found.bias, (1 - 7 / 9) * (np.mean(folds) - value) / 6, rtol=1e-3)
