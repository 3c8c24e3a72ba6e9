import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from curvature_cases import conv_loss, conv_problem, examples, loss, mlp_params, operator_of, symmetric
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.numerics import draw_probe
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


@pytest.mark.parametrize("values", [np.linspace(0, 1, 400), np.geomspace(1e-4, 1, 400)])
def test_a_start_with_little_of_the_top_does_not_end_at_the_next_eigenvalue(values):
    op = operator_of(np.diag(values))
    for seed, rtol in ((3, 1e-2), (4, 1e-2), (4, 1e-3)):
        pairs = cv.eigenpairs(op, jax.random.key(seed), rtol=rtol)
        assert pairs.converged.all()
        assert abs(pairs.values[0] - 1) <= max(pairs.residuals[0], rtol / 3)
        assert pairs.num_products < 100
    below = cv.eigenpairs(-op, jax.random.key(4), which="smallest", rtol=1e-3)
    assert abs(below.values[0] + 1) <= below.residuals[0]
    both = cv.eigenpairs(op, jax.random.key(4), which="both", rtol=1e-3)
    assert abs(both.values[0] - 1) <= both.residuals[0]
    short = cv.eigenpairs(op, jax.random.key(4), rtol=1e-2, max_steps=18)
    assert not short.converged[0]  # what residual it may have


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


@pytest.mark.parametrize("start", [1.0, -1.0, -3.0, 0.0])
def test_a_start_that_cancels_the_random_vector(start):
    """With one parameter either is plus or minus one."""
    op = cv.from_matvec(elementwise, jnp.zeros(()), jnp.asarray(-2.0))
    for key in range(4):
        pairs = cv.eigenpairs(op, jax.random.key(key), start=jnp.asarray(start))
        assert pairs.values == [-2.0]
        assert pairs.converged.all()
    op = diagonal([3.0, 1.0, 0.5])
    first = draw_probe(jax.random.key(0), 3, np.dtype(np.float32), "gaussian")
    assert_allclose(cv.sharpness(op, jax.random.key(0), start=-first).value, 3, rtol=1e-5)


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


@pytest.mark.slow
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


def best(eigenvalues, which, k):
    ascending = np.sort(eigenvalues)
    return {
        "largest": ascending[::-1][:k],
        "smallest": ascending[:k],
        "magnitude": np.asarray(eigenvalues)[np.argsort(-np.abs(eigenvalues), kind="stable")][:k],
        "both": np.concatenate([ascending[::-1][:k], ascending[:k]]),
    }[which]


BULK = np.linspace(0, 0.5, 493)
MULTIPLE = {
    "a triple one": ([5, 5, 5, 4, 3, 2, 1, *BULK], 4, ["largest", "magnitude"]),
    "at the edge of a cluster": ([5] * 5 + [4] + [0] * 300, 3, ["largest", "smallest", "both", "magnitude"]),
    "two values": ([7] * 30 + [1] * 170, 20, ["largest", "smallest", "both", "magnitude"]),
    "a few among many": ([7, 7] + [1] * 5000, 2, ["largest", "smallest", "both"]),
    "on both sides": ([5, 5, -5.5, -5.5, -4, 4, *np.linspace(-1, 1, 300)], 3, ["largest", "smallest", "both"]),
    "sizes": ([5, 5, -5.5, -5.5, -4, 4, *np.linspace(-1, 1, 300)], 3, ["magnitude"]),
    "negative": ([-5, -5, -5, -4, *-BULK], 4, ["smallest", "magnitude"]),
    "multiples of one": ([1] * 50, 7, ["largest", "smallest", "both", "magnitude"]),
    "a small space": ([3, 3, 2, 2, 1], 3, ["largest", "smallest", "both", "magnitude"]),
    "all but one": ([1] * 6, 5, ["largest", "smallest"]),
    "zero": ([0] * 30, 3, ["largest", "both"]),
}


@pytest.mark.parametrize(("name", "which"), [(name, end) for name, case in MULTIPLE.items() for end in case[2]])
def test_every_copy_of_a_multiple_eigenvalue_is_returned(name, which):
    eigenvalues, k, _ = MULTIPLE[name]
    matrix = np.asarray(eigenvalues, np.float64)
    pairs = cv.eigenpairs(diagonal(matrix), jax.random.key(3), k, which)
    assert pairs.converged.all()
    expected = best(matrix, which, k)[: len(pairs.values)]
    if which == "both" and 2 * k > len(matrix):
        expected = np.concatenate([np.sort(matrix)[::-1][:k], np.sort(matrix)[: len(matrix) - k]])
    scale = np.abs(matrix).max()
    assert_allclose(pairs.values, expected, atol=1e-4 * scale)
    vectors = np.asarray(pairs.vectors, np.float64)
    assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-5)
    left = np.linalg.norm(vectors * matrix - pairs.values[:, None] * vectors, axis=1)
    assert (left <= 1.01 * pairs.residuals + 1e-6 * scale).all()


def elementwise(vector, numbers):
    return numbers * vector


def diagonal(eigenvalues):
    return cv.from_matvec(elementwise, jnp.zeros(len(eigenvalues)), jnp.asarray(eigenvalues, jnp.float32))


@pytest.mark.long
def test_copies_and_a_simple_spectrum_over_many_draws():
    """No value is called converged that is not, and no residual is below the true one."""
    rng = np.random.default_rng(0)
    for seed in range(30):
        bulk = [rng.uniform(-0.3, 0.3, 200), np.zeros(200), rng.exponential(0.05, 200)][seed % 3]
        top = rng.choice([0.5, 1, 2, 3, 4, 5, 8, 10, 100, -3, -5], rng.integers(1, 8))
        matrix = np.concatenate([np.repeat(top, rng.integers(1, 6, len(top))), bulk])[:200]
        k, rtol = int(rng.integers(2, 8)), float(rng.choice([1e-1, 1e-3, 1e-5]))
        which = str(rng.choice(["largest", "smallest", "both", "magnitude"]))
        pairs = cv.eigenpairs(diagonal(matrix), jax.random.key(seed), k, which, rtol)
        error, scale = np.abs(np.abs(pairs.values) - np.abs(best(matrix, which, k))), np.abs(matrix).max()
        assert (error <= np.maximum(1.5 * rtol * np.abs(pairs.values), 1e-5 * scale))[pairs.converged].all(), seed
        vectors = np.asarray(pairs.vectors, np.float64)
        left = np.linalg.norm(vectors * matrix - pairs.values[:, None] * vectors, axis=1)
        assert (left <= 1.01 * pairs.residuals + 3e-6 * scale).all(), seed


def test_the_look_for_copies_is_cheap_and_one_pair_has_none():
    simple = np.concatenate([[10, 8, 5, 3, 2, 1], np.linspace(0, 0.3, 494)])
    op = diagonal(simple)
    before, pairs = cv.sharpness(op, jax.random.key(0)), cv.eigenpairs(op, jax.random.key(0), 3)
    assert before.num_products <= 12  # in fours, of so few parameters
    assert_allclose(pairs.values, [10, 8, 5], rtol=1e-5)
    assert pairs.num_products <= 16


@pytest.mark.slow
def test_a_look_that_is_cut_short_is_not_called_converged():
    op = diagonal([5, 5, 5, 4, 3, 2, 1, *BULK])
    for max_steps in range(4, 28, 2):
        pairs = cv.eigenpairs(op, jax.random.key(0), 4, max_steps=max_steps)
        assert pairs.num_products <= max_steps
        assert_allclose(pairs.values[pairs.converged], np.array([5, 5, 5, 4])[pairs.converged], rtol=1e-3)


def test_softmax_regression_at_zero_has_copies_for_every_class():
    """The Hessian at w = 0 is (I/C − 11ᵀ/C²) ⊗ XᵀX/N."""
    batch, classes = examples(60, 6, 10), 10
    pairs = cv.eigenpairs(cv.hessian(linear_loss, jnp.zeros((6, classes)), batch), jax.random.key(0), 12)
    x = np.asarray(batch["x"], np.float64)
    exact = np.repeat(np.linalg.eigvalsh(x.T @ x / 60)[::-1] / classes, classes - 1)
    assert pairs.converged.all()
    assert_allclose(pairs.values, exact[:12], rtol=1e-4)


def linear_loss(w, batch):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(batch["x"] @ w), batch["y"][:, None], 1))


def dense(name):
    """Spectra whose wanted eigenvalues lie at the edge of a bulk, or in it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 600)) / np.sqrt(1200)
    square = rng.normal(size=(500, 500))
    return {
        "Marchenko-Pastur": lambda: np.linalg.eigvalsh(x.T @ x),
        "with outliers": lambda: np.concatenate([np.linalg.eigvalsh(x.T @ x)[3:], [4, 5, 8]]),
        "rank-deficient": lambda: np.linalg.eigvalsh(x @ x.T)[300:],
        "semicircle": lambda: np.linalg.eigvalsh((square + square.T) / np.sqrt(1000)),
        "equal gaps": lambda: np.linspace(0, 1, 1000),
        "uniform": lambda: rng.uniform(0, 1, 1000),
        "decaying": lambda: np.exp(-np.arange(1000) / 20),
    }[name]()


DENSE = ["Marchenko-Pastur", "with outliers", "rank-deficient", "semicircle", "equal gaps", "uniform", "decaying"]


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("k", [3, 10])
def test_the_edge_of_a_dense_bulk_converges_within_the_products_of_the_default(name, k):
    """With at most twice the products of ARPACK, which does not look for what it may have passed over."""
    eigenvalues, products = dense(name), []
    pairs = cv.eigenpairs(diagonal(eigenvalues), jax.random.key(0), k)
    assert pairs.status == ("converged",) * k
    assert_allclose(pairs.values, np.sort(eigenvalues)[::-1][:k], rtol=1e-3)

    def product(vector):
        products.append(1)
        return eigenvalues * vector.ravel()

    size = len(eigenvalues)
    counted = scipy.sparse.linalg.LinearOperator((size, size), product, dtype=np.float64)
    start = np.random.default_rng(1).normal(size=size)
    scipy.sparse.linalg.eigsh(counted, k, which="LA", tol=1e-3, ncv=k + 20, v0=start)
    assert pairs.num_products <= 2 * len(products)


def test_what_has_not_converged_is_said_with_its_residual():
    """Ten clusters, each as narrow as the tolerance: a hundred eigenvalues that need not be told apart."""
    rng = np.random.default_rng(0)
    eigenvalues = np.concatenate([center + 1e-3 * rng.normal(size=100) for center in np.linspace(0.1, 1, 10)])
    pairs = cv.eigenpairs(diagonal(eigenvalues), jax.random.key(0), 10, max_steps=100)
    assert not pairs.converged.all()
    for converged, residual, status in zip(pairs.converged, pairs.residuals, pairs.status, strict=True):
        assert (status == "converged") == converged
        if not converged:
            assert status.startswith(f"not converged: its residual is {residual:.1e}")
            assert status.endswith("raise max_steps")
    assert str(pairs).count("not converged") == 10 - pairs.converged.sum()
    assert len(str(pairs).splitlines()) == 10


@pytest.mark.slow
def test_more_products_change_no_bit_of_what_converges():
    op = diagonal([5, 5, 5, 4, 3, 2, 1, *BULK])
    by_default, with_few, with_many = (
        cv.eigenpairs(op, jax.random.key(0), 4, **steps) for steps in ({}, {"max_steps": 200}, {"max_steps": 5000})
    )
    for pairs in (with_few, with_many):
        assert (pairs.values == by_default.values).all()
        assert (pairs.residuals == by_default.residuals).all()
        assert (np.asarray(pairs.vectors) == np.asarray(by_default.vectors)).all()
        assert pairs.num_products == by_default.num_products
