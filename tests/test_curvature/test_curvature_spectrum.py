import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import examples, loss, mlp_params, operator_of, symmetric
from numpy.testing import assert_allclose, assert_array_equal

import hessflat.curvature as cv
from hessflat.curvature import numerics
from hessflat.utils.errors import InputError

TRUE = np.concatenate([np.geomspace(0.01, 4, 30), np.zeros(60), [-0.5, -0.1]])


@pytest.fixture(scope="module")
def matrix():
    return symmetric(TRUE)


@pytest.fixture(scope="module")
def measured(matrix):
    return cv.spectrum(operator_of(matrix), jax.random.key(0), num_steps=20, num_probes=6)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_quadrature_is_exact_for_polynomials_of_degree_2m_minus_1(matrix, probe):
    with jax.enable_x64(True):
        key = jax.random.key(3)
        result = cv.spectrum(operator_of(matrix, np.float64), key, num_steps=6, num_probes=3, probe=probe)
        for k in range(3):
            v = power = np.asarray(numerics.draw_probe(key, len(TRUE), np.float64, probe, k))
            for degree in range(12):
                quadrature = (result.weights[k] * result.nodes[k] ** degree).sum()
                assert_allclose(quadrature, v @ power, rtol=1e-11, err_msg=f"degree {degree}")
                power = matrix @ power
            assert not np.isclose((result.weights[k] * result.nodes[k] ** 12).sum(), v @ power, rtol=1e-11)


def test_moments_are_those_of_the_matrix():
    """Rademacher probes on a diagonal matrix have no variance in the trace, nor in its square."""
    result = cv.spectrum(operator_of(np.diag(TRUE)), jax.random.key(0), num_steps=20, num_probes=3)
    assert_allclose(result.trace.value, TRUE.sum(), rtol=1e-5)
    assert_allclose(result.mean_eigenvalue.value, TRUE.mean(), rtol=1e-5)
    assert_allclose(result.second_moment.value, (TRUE**2).mean(), rtol=1e-5)
    assert_allclose(result.frobenius.value, np.linalg.norm(TRUE), rtol=1e-5)
    assert result.trace.standard_error < 1e-4


def test_extremes_and_their_residuals(measured):
    assert_allclose(measured.largest.value, 4, rtol=1e-5)
    assert_allclose(measured.smallest.value, -0.5, rtol=1e-5)
    assert 0 <= measured.largest.residual < 1e-3
    assert_allclose(measured.noise_floor, 4 * np.finfo(np.float32).eps, rtol=1e-4)


def test_the_record_says_how_it_was_made(measured):
    assert (measured.size, measured.num_products) == (len(TRUE), 120)
    assert (measured.precision, measured.dtype) == ("highest", "float32")
    assert measured.seconds > 0
    assert measured.orthogonality.max() < 1e-5
    assert_allclose(measured.weights.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("backend", "asked", "done_in", "epsilon"),
    [
        ("cpu", "default", "highest", 2.0**-23),
        ("gpu", None, "highest", 2.0**-23),
        ("gpu", "default", "tensorfloat32", 2.0**-10),
        ("gpu", "float32", "highest", 2.0**-23),
        ("tpu", "default", "bfloat16", 2.0**-7),
        ("tpu", "high", "bfloat16_3x", 2.0**-16),
        ("gpu", "BF16_BF16_F32", "BF16_BF16_F32", 2.0**-7),
    ],
)
def test_the_precision_of_products_is_recorded_and_sets_the_noise_floor(backend, asked, done_in, epsilon):
    """The name is that of what the backend does; a CPU rounds nothing."""
    with jax.default_matmul_precision(asked):
        measured = cv.spectrum(operator_of(np.diag([1.0, 2.0, 4.0])), jax.random.key(0), 3)
        assert measured.precision == (asked if asked == done_in else "highest")
        assert numerics.precision_on(backend) == done_in
    for dtype, own in (("float32", epsilon), ("float64", 2.0**-52)):
        of_type = dataclasses.replace(measured, precision=done_in, dtype=dtype)
        assert_allclose(of_type.noise_floor, 4 * own, rtol=1e-6)


def test_one_probe_leaves_the_error_unknown(matrix):
    result = cv.spectrum(operator_of(matrix), jax.random.key(0), num_steps=10)
    assert np.isnan(result.trace.standard_error)
    assert np.isnan(result.frobenius.standard_error)
    assert np.isfinite(result.trace.value)


def test_unused_steps_are_zero_and_carry_no_weight():
    result = cv.spectrum(operator_of(symmetric([2.0, 1.0] + [0] * 20)), jax.random.key(0), 10, 2)
    for valid, *rows in zip(result.num_valid, result.nodes, result.weights, result.residuals, strict=True):
        assert valid < 10
        assert not any(row[valid:].any() for row in rows)
    assert_allclose(result.weights.sum(axis=1), 1)
    shifted = cv.spectrum(operator_of(3 * np.eye(5)), jax.random.key(0), 4)
    assert_allclose([shifted.smallest.value, shifted.largest.value], 3, rtol=1e-6)


def test_zero_mass_of_a_gauss_newton_like_spectrum():
    true = np.concatenate([[5, 3, 2, 1], np.zeros(96)])
    result = cv.spectrum(operator_of(symmetric(true)), jax.random.key(0), 50, 8)
    mass = result.zero_mass("gauss_newton")
    assert abs(mass.weight.value - 0.96) < 4 * mass.weight.standard_error + 1e-6
    assert abs(mass.value.value) < result.noise_floor * 10
    assert mass.weights.shape == mass.values.shape == (8,)


def test_zero_mass_of_a_hessian_combines_the_two_nearest():
    """Half of the zeros on either side, as Lanczos splits one peak: value is their weighted mean."""
    true = np.concatenate([[5, 3, -2], np.full(60, 1e-3), np.full(37, -1e-3)])
    result = cv.spectrum(operator_of(np.diag(true)), jax.random.key(0), 50, 2)
    mass = result.zero_mass("hessian")
    assert_allclose(mass.weight.value, 0.97, rtol=1e-4)
    assert_allclose(mass.value.value, 1e-3 * 23 / 97, atol=2e-6)
    assert_allclose(result.zero_mass("gauss_newton").weight.value, 0.6, atol=0.25)


def test_density_integrates_to_one_and_its_mean_is_the_trace(measured):
    grid = np.linspace(-3, 7, 4001)
    density = measured.density(grid, 0.05)
    step = grid[1] - grid[0]
    assert_allclose(density.mean.sum() * step, 1, rtol=1e-6)
    assert_allclose((grid * density.mean).sum() * step, measured.mean_eigenvalue.value, rtol=1e-6)
    assert (density.standard_error >= 0).all()
    assert measured.density(grid).width == pytest.approx(0.045, rel=1e-3)


def test_density_comes_closer_to_the_exact_spectrum_with_more_steps(matrix):
    """In the Wasserstein distance to the exact one, averaged over the same probes."""
    op = operator_of(matrix)
    distances = []
    for steps in (3, 24):
        result = cv.spectrum(op, jax.random.key(1), steps, 8)
        nodes, weights = result.nodes.ravel(), result.weights.ravel() / 8
        points = np.sort(np.concatenate([nodes, TRUE]))
        ours = np.array([weights[nodes <= x].sum() for x in points])
        exact = np.array([(x >= TRUE).mean() for x in points])
        distances.append((np.abs(ours - exact)[:-1] * np.diff(points)).sum())
    assert distances[1] < 0.6 * distances[0]


@pytest.mark.slow
def test_standard_errors_cover_the_truth(matrix):
    """200 seeds with 10 probes: |estimate - truth| < t s.e. in about 95 of 100 (binomial limits of 4 sigma)."""
    op, quantile = operator_of(matrix), 2.262  # Student's t with 9 degrees of freedom
    truth = {"trace": TRUE.sum(), "frobenius": np.linalg.norm(TRUE)}
    hits = dict.fromkeys(truth, 0)
    for seed in range(200):
        result = cv.spectrum(op, jax.random.key(seed), num_steps=4, num_probes=10, together=True)
        for name, value in truth.items():
            estimate = getattr(result, name)
            hits[name] += abs(estimate.value - value) < quantile * estimate.standard_error
    for name, count in hits.items():
        assert 190 - 4 * np.sqrt(200 * 0.95 * 0.05) <= count <= 200, (name, count)


@pytest.mark.parametrize(
    "values",
    [
        np.full(60, 3.3),
        np.logspace(-10, 1, 90),
        np.linspace(0, 3, 40),
        np.random.default_rng(0).exponential(1, 80) ** 4,
    ],
    ids=["equal", "over eleven decades", "even", "heavy tail"],
)
def test_errors_are_no_smaller_than_the_rounding_where_probes_agree(values):
    diagonal = values.astype(np.float32)
    op = cv.from_matvec(lambda v: jnp.asarray(diagonal) * v, jnp.zeros(len(diagonal)))
    exact = diagonal.astype(np.float64)
    key = jax.random.key(1)
    measured = cv.spectrum(op, key, num_steps=len(diagonal), num_probes=5, show_progress=False)
    moments = cv.moments(op, key, 5)
    pairs = [
        (measured.trace, exact.sum()),
        (measured.mean_eigenvalue, exact.mean()),
        (measured.second_moment, np.mean(exact**2)),
        (measured.frobenius, np.linalg.norm(exact)),
        (measured.log_determinant(0.1), np.log(exact + 0.1).sum()),
        (measured.effective_dimension(0.1), (exact / (exact + 0.1)).sum()),
        (moments.trace, exact.sum()),
        (moments.frobenius, np.linalg.norm(exact)),
        (cv.relative_distance(op, op, key, 5), 0.0),
    ]
    for estimate, expected in pairs:
        assert abs(estimate.value - expected) < 4 * estimate.standard_error < 1e-2 * max(abs(expected), 1e-4)


def test_arrays_and_back(measured, tmp_path):
    np.savez(tmp_path / "spectrum.npz", **cv.spectrum_to_arrays(measured))
    with np.load(tmp_path / "spectrum.npz") as stored:
        back = cv.spectrum_from_arrays(stored)
    assert_array_equal(back.nodes, measured.nodes)
    assert (back.size, back.dtype, back.seconds) == (measured.size, measured.dtype, measured.seconds)
    assert back.trace == measured.trace
    with pytest.raises(InputError, match="missing: nodes"):
        cv.spectrum_from_arrays({})


def test_the_residual_carries_the_negative_eigenvalues():
    params, batch = mlp_params(5, 4, 3), examples(40, 5, 3)
    smallest = cv.spectrum(cv.hessian(loss, params, batch), jax.random.key(0), 30).smallest
    assert_allclose(smallest.value, cv.eigvalsh(cv.hessian(loss, params, batch))[0], rtol=1e-3)
    assert smallest.value < 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s.zero_mass("fisher"), "unknown kind 'fisher'; known: gauss_newton, hessian"),
        (lambda s: s.density(jnp.zeros(3), width=0.0), "width must be above 0"),
    ],
)
def test_wrong_input_is_one_line(measured, make, message):
    with pytest.raises(InputError, match=message):
        make(measured)
