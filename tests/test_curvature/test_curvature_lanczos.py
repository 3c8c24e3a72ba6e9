import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import conv_loss, conv_problem, criterion, examples, mlp_params, operator_of, predict, symmetric
from numpy.testing import assert_allclose, assert_array_equal

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)


def simple(number, zeros, seed=0):
    values = np.random.default_rng(seed).uniform(0.5, 5, size=number)
    return np.concatenate([values, np.zeros(zeros)])


# name: eigenvalues, and the dimension of the Krylov space (the number of distinct ones)
SPECTRA = {
    "rank 3": ([5, 2, 1] + [0] * 97, 4),
    "identity": ([1.0] * 50, 1),
    "zero": ([0.0] * 20, 1),
    "indefinite": ([-4, 3.9, 1] + [0] * 60, 4),
    "repeated": ([3.0] * 5 + [2.0] * 5 + [-1.0] * 5, 3),
    "tiny": (1e-7 * np.arange(1, 11), 10),
    "saturated": (1e-28 * np.arange(1, 11), 10),
    "rank 16": (simple(16, 200), 17),
}


def ritz(alphas, betas, valid):
    """Ritz values of T = tridiag(betas, alphas, betas), [m] each, and |β_v s_vi|."""
    alphas, betas = alphas[:valid].astype(np.float64), betas[:valid].astype(np.float64)
    values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))
    return values, np.abs(betas[-1] * vectors[-1])


@pytest.mark.parametrize(("name", "rotate"), [(name, True) for name in SPECTRA] + [("rank 3", False), ("tiny", False)])
def test_float32_gives_no_false_eigenvalues(name, rotate):
    true, krylov = SPECTRA[name]
    op = operator_of(symmetric(true, rotate=rotate))
    result = cv.lanczos(op, jax.random.key(1), num_steps=60, num_probes=3, probe="gaussian")
    noise = 3e-6 * np.abs(true).max()
    for alphas, betas, valid in zip(result.alphas, result.betas, result.num_valid, strict=True):
        values, residuals = ritz(alphas, betas, valid)
        # Rounding that has grown on the way may add a direction or two in the null space.
        assert krylov <= valid <= krylov + 2
        assert not alphas[valid:].any()
        assert not betas[valid:].any()
        distance = np.abs(values[:, None] - np.asarray(true)[None]).min(axis=1)
        assert (distance <= residuals + noise).all()
        for value in set(true):
            copies = (np.abs(values - value) <= noise + residuals).sum()
            assert copies <= list(true).count(value)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["scan", "python"])
def test_low_rank_gauss_newton_of_a_network(loop):
    params, batch = mlp_params(20, 20, 5), examples(4, 20, 5)
    op = cv.gauss_newton(predict, criterion, params, batch)
    true = cv.eigvalsh(op)
    result = cv.lanczos(op, jax.random.key(0), num_steps=60, num_probes=2, loop=loop)
    assert ((result.num_valid >= 16) & (result.num_valid <= 18)).all()
    for alphas, betas, valid in zip(result.alphas, result.betas, result.num_valid, strict=True):
        values, residuals = ritz(alphas, betas, valid)
        assert (np.abs(values[:, None] - true[None]).min(axis=1) <= residuals + 3e-6 * true[-1]).all()
        assert values.min() > -3e-6 * true[-1]


def test_the_recurrence_holds():
    with jax.enable_x64(True):
        matrix = symmetric(np.linspace(-2, 5, 40))
        result = cv.lanczos(operator_of(matrix, np.float64), jax.random.key(0), 15, 2, return_basis=True)
        for alphas, betas, basis in zip(result.alphas, result.betas, np.asarray(result.basis), strict=True):
            T = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
            assert_allclose(basis @ basis.T, np.eye(15), atol=1e-14)
            assert_allclose(basis @ matrix @ basis.T, T, atol=1e-13)
            rest = matrix @ basis.T - basis.T @ T
            assert_allclose(rest[:, :-1], 0, atol=1e-13)
            assert_allclose(np.linalg.norm(rest[:, -1]), betas[-1], atol=1e-13)
        assert result.orthogonality.max() < 1e-14


def test_as_many_steps_as_dimensions_give_every_eigenvalue():
    true = np.linspace(-2, 5, 12)
    result = cv.lanczos(operator_of(symmetric(true)), jax.random.key(0), num_steps=100)
    assert result.alphas.shape == (1, 12)
    assert_allclose(ritz(result.alphas[0], result.betas[0], result.num_valid[0])[0], true, atol=2e-5)


def test_agrees_with_matfree_in_float64():
    decomp = pytest.importorskip("matfree.decomp")
    with jax.enable_x64(True):
        matrix = symmetric(np.linspace(-1, 9, 30))
        op = operator_of(matrix, np.float64)
        ours = cv.lanczos(op, jax.random.key(4), 10, return_basis=True)
        theirs = decomp.tridiag_sym(10)(lambda v: jnp.asarray(matrix) @ v, ours.basis[0, 0])
        dense = np.asarray(theirs.J_small)
        assert_allclose(ours.alphas[0], np.diag(dense), atol=1e-12)
        assert_allclose(ours.betas[0, :-1], np.abs(np.diag(dense, 1)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("reorthogonalise", ["full", "none"])
def test_loops_and_probes_together_agree(reorthogonalise):
    params, batch = conv_problem()
    op = cv.hessian(conv_loss, params, cv.Batches(batch, 5))
    settings = {"num_steps": 8, "num_probes": 3, "reorthogonalise": reorthogonalise}
    host, scan, together = (
        cv.lanczos(op, jax.random.key(2), **settings, **how)
        for how in ({"loop": "python"}, {"loop": "scan"}, {"loop": "scan", "together": True})
    )
    assert_array_equal(host.num_valid, scan.num_valid)
    for other in (scan, together):
        assert_allclose(host.alphas, other.alphas, atol=1e-5)
        assert_allclose(host.betas, other.betas, atol=1e-5)


def test_probes_together_may_end_at_different_steps():
    """A Krylov space of 3 for every start; the zero rows after it must not disturb the others."""
    op = operator_of(symmetric([3.0, 1.0] + [0.0] * 30))
    turn = cv.lanczos(op, jax.random.key(0), 10, 4)
    together = cv.lanczos(op, jax.random.key(0), 10, 4, together=True)
    assert_array_equal(turn.num_valid, together.num_valid)
    assert_allclose(turn.alphas, together.alphas, atol=1e-5)


def test_without_reorthogonalisation_the_basis_is_lost():
    op = operator_of(symmetric(np.geomspace(1e-3, 100, 60)))
    kept = cv.lanczos(op, jax.random.key(0), 50, return_basis=True)
    lost = cv.lanczos(op, jax.random.key(0), 50, reorthogonalise="none", return_basis=True)
    assert kept.orthogonality[0] < 1e-5 < 0.1 < lost.orthogonality[0]
    unknown = cv.lanczos(op, jax.random.key(0), 50, reorthogonalise="none")
    assert np.isnan(unknown.orthogonality).all()
    assert unknown.basis is None
    assert_allclose(unknown.alphas, lost.alphas, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_probes": 1.5}, "num_probes must be"),
        ({"reorthogonalise": "partial"}, "unknown reorthogonalise 'partial'"),
        ({"probe": "rademachr"}, "did you mean 'rademacher'"),
        ({"key": 0}, "key must be one random key"),
        ({"key": jax.random.split(jax.random.key(0))}, "key must be one random key"),
    ],
)
def test_wrong_input_is_one_line(settings, message):
    settings = {"key": jax.random.key(0)} | settings
    with pytest.raises(InputError, match=message):
        cv.lanczos(operator_of(symmetric([1, 2, 3])), **settings)


def test_products_that_are_not_finite_are_refused():
    op = operator_of(np.diag([1.0, np.inf]))
    with pytest.raises(InputError, match="not finite"):
        cv.lanczos(op, jax.random.key(0))


def test_raw_keys_are_taken():
    op = operator_of(symmetric([1, 2, 3]))
    assert cv.lanczos(op, jax.random.PRNGKey(0), 2).num_valid[0] == 2


@pytest.mark.parametrize("together", [True, False])
def test_steps_are_reported_as_they_are_done(together):
    steps = []
    cv.lanczos(operator_of(symmetric(np.arange(1.0, 61))), KEY, 30, 2, together=together, on_steps=steps.append)
    assert sum(steps) == 60
    assert max(steps) <= 12 * (2 if together else 1)


def test_a_krylov_space_that_ends_early_reports_every_step():
    steps = []
    cv.lanczos(operator_of(np.eye(50)), KEY, 30, on_steps=steps.append)
    assert sum(steps) == 30


def test_products_of_eigenpairs_and_steps_of_a_decomposition_are_reported():
    steps = []
    pairs = cv.eigenpairs(operator_of(symmetric(np.arange(1.0, 61))), KEY, 2, on_steps=steps.append)
    assert sum(steps) == pairs.num_products
    steps.clear()
    params, batch = mlp_params(5, 3), examples(20, 5, 3)
    cv.decompose(
        predict, criterion, params, batch, KEY, num_steps=6, num_probes=2, trace_probes=0, on_steps=steps.append
    )
    assert sum(steps) == 12


@pytest.mark.slow
def test_nothing_is_shown_where_there_is_no_terminal(capfd):
    cv.lanczos(operator_of(symmetric(np.arange(1.0, 61))), KEY, 30)
    assert capfd.readouterr() == ("", "")
