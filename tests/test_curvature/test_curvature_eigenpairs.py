import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import conv_loss, conv_problem, examples, loss, mlp_params, operator_of, symmetric
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

TRUE = np.concatenate([[-4, -1], np.zeros(50), np.linspace(0.1, 1, 40), [2, 3, 3.9]])
ORDERED = {
    "largest": [3.9, 3, 2],
    "smallest": [-4, -1, 0],
    "magnitude": [-4, 3.9, 3],
    "both": [3.9, 3, 2, -4, -1, 0],
}


@pytest.fixture(scope="module")
def op():
    return operator_of(symmetric(TRUE))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["scan", "python"])
@pytest.mark.parametrize("which", ORDERED)
def test_ends_of_a_known_spectrum(op, which, loop):
    pairs = cv.eigenpairs(op, jax.random.key(0), 3, which, rtol=1e-4, loop=loop)
    assert_allclose(pairs.values, ORDERED[which], rtol=1e-4, atol=1e-5)
    assert pairs.converged.all()
    assert pairs.num_products <= len(TRUE)
    vectors = np.asarray(pairs.vectors)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    rest = vectors @ symmetric(TRUE) - pairs.values[:, None] * vectors
    assert (np.linalg.norm(rest, axis=1) <= pairs.residuals + 1e-5).all()


@pytest.mark.slow
def test_the_two_ends_may_be_of_different_lengths():
    eigenvalues = np.concatenate([np.linspace(-0.1, 0.1, 300), np.geomspace(0.2, 2, 30), [-0.5, -0.3]])
    op = operator_of(symmetric(eigenvalues))
    pairs = cv.eigenpairs(op, jax.random.key(0), (30, 2), "both", rtol=1e-4)
    assert_allclose(pairs.values, np.concatenate([np.geomspace(2, 0.2, 30), [-0.5, -0.3]]), rtol=1e-4)
    assert pairs.converged.all()
    restarted = cv.eigenpairs(op, jax.random.key(0), (3, 2), "both", rtol=1e-4, num_vectors=12)
    assert_allclose(restarted.values, np.concatenate([np.geomspace(2, 0.2, 30)[:3], [-0.5, -0.3]]), rtol=1e-4)
    with pytest.raises(InputError, match="k must be one whole number for the end 'largest'"):
        cv.eigenpairs(op, jax.random.key(0), (3, 2))


def test_stops_when_converged():
    op = operator_of(np.diag(np.linspace(0, 1, 400)))
    loose = cv.eigenpairs(op, jax.random.key(0), rtol=1e-1)
    tight = cv.eigenpairs(op, jax.random.key(0), rtol=1e-5)
    assert loose.num_products < tight.num_products < 400
    short = cv.eigenpairs(op, jax.random.key(0), rtol=1e-6, max_steps=4)
    assert not short.converged[0]
    assert short.num_products == 4


def test_vectors_are_trees_like_the_parameters():
    params, batch = mlp_params(5, 4, 3), examples(30, 5, 3)
    H = cv.hessian(loss, params, batch)
    pairs = cv.eigenpairs(H, jax.random.key(0), 2, rtol=1e-4)
    top = jax.tree.map(lambda x: x[0], pairs.vectors)
    jax.tree.map(lambda a, b: assert_allclose(a, pairs.values[0] * b, atol=2e-4), H(top), top)


def test_sharpness_is_bounded_by_its_residual():
    params, batch = mlp_params(5, 4, 3), examples(30, 5, 3)
    H = cv.hessian(loss, params, batch)
    value, residual, *_ = cv.sharpness(H, jax.random.key(0))
    assert abs(cv.eigvalsh(H)[-1] - value) <= residual + 1e-6 * value
    assert residual <= 1e-3 * value


def test_convolutions_on_the_host():
    params, batch = conv_problem()
    H = cv.hessian(conv_loss, params, batch)
    assert_allclose(cv.sharpness(H, jax.random.key(0)).value, cv.eigvalsh(H)[-1], rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-7, 1.0])
def test_copies_appear_once_distinct_values_run_out(scale):
    op = operator_of(scale * symmetric([5, 5, 1] + [0] * 20))
    pairs = cv.eigenpairs(op, jax.random.key(0), 4)
    assert_allclose(pairs.values, scale * np.array([5, 5, 1, 0]), atol=2e-5 * scale)
    assert pairs.converged.all()


def test_zero_and_identity():
    assert cv.sharpness(operator_of(np.zeros((5, 5))), jax.random.key(0))[:2] == (0, 0)
    pairs = cv.eigenpairs(operator_of(np.eye(6)), jax.random.key(0), 6)
    assert_allclose(pairs.values, 1, rtol=1e-5)
    assert_allclose(
        cv.eigenpairs(operator_of(np.diag([1.0, 2])), jax.random.key(0), 2, "both").values, [2, 1], rtol=1e-5
    )


def test_warm_start_is_cheaper_and_still_finds_an_overtaker():
    quiet = np.linspace(0, 1, 300)
    before = operator_of(np.diag(np.concatenate([quiet, [1.15, 1.05]])))
    pairs = cv.eigenpairs(before, jax.random.key(0), rtol=1e-4)
    warm = cv.eigenpairs(before, jax.random.key(1), rtol=1e-4, start=pairs.vectors)
    assert warm.num_products <= pairs.num_products
    after = operator_of(np.diag(np.concatenate([quiet, [1.15, 1.3]])))
    assert_allclose(cv.sharpness(after, jax.random.key(1), start=pairs.vectors).value, 1.3, rtol=1e-3)


def test_starts_of_every_kind():
    params, batch = mlp_params(5, 3), examples(30, 5, 3)
    H = cv.hessian(loss, params, batch)
    pairs = cv.eigenpairs(H, jax.random.key(0), 2)
    single = jax.tree.map(lambda x: x[0], pairs.vectors)
    for start in (pairs.vectors, single, jnp.ones(H.size), np.ones((2, H.size))):
        assert_allclose(cv.sharpness(H, jax.random.key(1), start=start).value, pairs.values[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be a whole number"),
        ({"k": 1000}, "k must be at most the size of the operator"),
        ({"which": "largets"}, "did you mean 'largest'"),
        ({"rtol": 0.0}, "rtol must be above 0"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"start": jnp.ones(3)}, "start must be a tree like params"),
    ],
)
def test_wrong_input_is_one_line(op, settings, message):
    with pytest.raises(InputError, match=message):
        cv.eigenpairs(op, jax.random.key(0), **settings)


@pytest.mark.parametrize("which", ["largest", "smallest", "both", "magnitude"])
def test_few_vectors_are_enough(which):
    """A bulk that needs many products, and a basis that restarts several times."""
    eigenvalues = np.concatenate([np.linspace(-1, 1, 300), [1.02, 1.05, -1.03, -1.1]])
    op = operator_of(symmetric(eigenvalues))
    pairs = cv.eigenpairs(op, jax.random.key(0), 2, which, rtol=1e-5, max_steps=600, num_vectors=14)
    expected = {
        "largest": [1.05, 1.02],
        "smallest": [-1.1, -1.03],
        "both": [1.05, 1.02, -1.1, -1.03],
        "magnitude": [-1.1, 1.05],
    }
    assert pairs.converged.all()
    assert pairs.num_products > 20
    assert_allclose(pairs.values, expected[which], rtol=2e-5)
    vectors = np.asarray(pairs.vectors)
    assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-4)
    residuals = np.linalg.norm(symmetric(eigenvalues) @ vectors.T - vectors.T * pairs.values[None], axis=0)
    assert (residuals < 2e-5).all()
