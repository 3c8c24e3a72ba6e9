"""Sums of functions of eigenvalues: exact ones from arrays, and estimates of the same from a spectrum."""

import jax
import numpy as np
import pytest
from curvature_cases import criterion, examples, mlp_params, operator_of, predict, symmetric
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

TRUE = np.concatenate([np.geomspace(0.01, 4, 20), np.zeros(40)])
EXACT = {
    "log_determinant": (lambda s: s.log_determinant(0.1), cv.functionals.log_determinant(TRUE, 0.1)),
    "effective_dimension": (lambda s: s.effective_dimension(0.1), cv.functionals.effective_dimension(TRUE, 0.1)),
    "participation_ratio": (lambda s: s.participation_ratio, cv.functionals.participation_ratio(TRUE)),
    "effective_rank": (lambda s: s.effective_rank("gauss_newton"), cv.functionals.effective_rank(TRUE)),
}


def test_closed_forms_of_eigenvalues():
    values = np.array([3.0, 3.0, 3.0, 0.0, 0.0])
    assert cv.functionals.effective_rank(values) == 3
    assert cv.functionals.zero_mass(values) == 0.4
    assert_allclose(cv.functionals.participation_ratio(values), 3)
    assert_allclose(cv.functionals.effective_dimension(values, 1.0), 9 / 4)
    assert_allclose(cv.functionals.log_determinant(values, 1.0), 3 * np.log(4))
    assert_allclose(cv.functionals.log_determinant(values[:3]), 3 * np.log(3))
    assert_allclose(cv.functionals.noise_floor(values), 3 * np.finfo(np.float32).eps)


def test_zeros_alone():
    zeros = np.zeros(4)
    assert cv.functionals.participation_ratio(zeros) == cv.functionals.effective_rank(zeros) == 0
    spectrum = cv.spectrum(operator_of(np.zeros((4, 4))), jax.random.key(0), 3, 2)
    assert spectrum.participation_ratio[:2] == spectrum.effective_rank("hessian")[:2] == (0, 0)
    assert spectrum.largest[:2] == (0, 0)
    assert_allclose(spectrum.log_determinant(2.0).value, 4 * np.log(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_diagonal_has_no_error_over_signs(dtype):
    """Every function of a diagonal matrix is diagonal, so that a sign vector gives its trace exactly."""
    with jax.enable_x64(dtype == np.float64):
        values = np.linspace(1, 2, 8)
        spectrum = cv.spectrum(operator_of(np.diag(values), dtype), jax.random.key(1), 8, 3)
    exact = np.log(values + 0.5).sum(), (values / (values + 0.5)).sum(), values.sum() ** 2 / (values**2).sum()
    found = spectrum.log_determinant(0.5), spectrum.effective_dimension(0.5), spectrum.participation_ratio
    for estimate, truth in zip(found, exact, strict=True):
        assert_allclose(estimate.value, truth, rtol=50 * np.finfo(dtype).eps)
        assert estimate.standard_error < 50 * np.finfo(dtype).eps * truth


@pytest.mark.long
def test_standard_errors_cover_the_truth():
    """200 seeds with 20 probes: within 2 standard errors in about 95 of 100, less 4 sigma of the binomial."""
    op = operator_of(symmetric(TRUE))
    hits = dict.fromkeys(EXACT, 0)
    for seed in range(200):
        spectrum = cv.spectrum(op, jax.random.key(seed), num_steps=25, num_probes=20, together=True)
        for name, (read, truth) in EXACT.items():
            estimate = read(spectrum)
            hits[name] += abs(estimate.value - truth) <= 2 * estimate.standard_error
    assert all(190 - 4 * np.sqrt(200 * 0.95 * 0.05) <= count <= 200 for count in hits.values()), hits


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_gauss_newton_matrix_beside_its_exact_eigenvalues(seed):
    op = cv.gauss_newton(predict, criterion, mlp_params(5, 4, 3, seed=seed), examples(40, 5, 3, seed=seed))
    values = cv.eigvalsh(op)
    direct = cv.log_determinant(op, jax.random.key(seed), 0.05, num_steps=39, num_probes=20)
    assert abs(direct.value - cv.functionals.log_determinant(values, 0.05)) < 4 * direct.standard_error
    spectrum = cv.spectrum(op, jax.random.key(seed), 39, 20)
    dimension = spectrum.effective_dimension(0.05)
    assert abs(dimension.value - cv.functionals.effective_dimension(values, 0.05)) < 4 * dimension.standard_error
    # Lanczos does not tell eigenvalues below the noise floor from one another, and both count them as zeros.
    rank = spectrum.effective_rank("gauss_newton")
    assert abs(rank.value - cv.functionals.effective_rank(values)) < 4 * rank.standard_error + 1


def test_the_function_is_the_spectrums_own_number():
    op = operator_of(symmetric(TRUE))
    direct = cv.log_determinant(op, jax.random.key(2), 0.1, num_steps=12, num_probes=5)
    spectrum = cv.spectrum(op, jax.random.key(2), num_steps=12, num_probes=5)
    assert_allclose(direct[:2], spectrum.log_determinant(0.1)[:2], rtol=1e-12)
    assert (direct.num_products, direct.precision) == (60, "highest")
    assert direct.seconds > 0


def test_too_few_steps_overestimate_the_log_determinant():
    """Gauss quadrature lies above the integral of a function whose even derivatives are negative."""
    op = operator_of(np.diag(np.geomspace(1e-3, 1, 40)))
    values = [cv.log_determinant(op, jax.random.key(0), 1e-4, m, 4).value for m in (3, 6, 12, 40)]
    assert (np.diff(values) < 0).all()
    assert_allclose(values[-1], np.log(np.geomspace(1e-3, 1, 40) + 1e-4).sum(), rtol=1e-3)


def test_scaling_shifts_the_log_determinant_by_a_logarithm():
    matrix = symmetric(TRUE)
    one, other = (
        cv.log_determinant(operator_of(factor * matrix), jax.random.key(1), factor * 0.1, 20, 5)
        for factor in (1.0, 1e-7)
    )
    assert_allclose(other.value - one.value, 60 * np.log(1e-7), rtol=1e-5)
    assert_allclose(other.standard_error, one.standard_error, rtol=1e-3)


def test_unused_steps_do_not_count():
    """Of rank 2 and positive definite for the damping -1 only where it counts: padding at 0 must not be read."""
    spectrum = cv.spectrum(operator_of(np.diag([2.0, 2.0, 3.0])), jax.random.key(0), 3, 2)
    assert spectrum.num_valid.max() == 2
    assert_allclose(spectrum.log_determinant(-1.0).value, np.log(2), rtol=1e-5)


def test_records_of_a_spectrum_carry_its_cost():
    spectrum = cv.spectrum(operator_of(symmetric(TRUE)), jax.random.key(0), 5, 2)
    records = [read(spectrum) for read, _ in EXACT.values()]
    records += [spectrum.trace, spectrum.frobenius, spectrum.largest, spectrum.smallest]
    records += [spectrum.zero_mass("hessian"), spectrum.zero_mass("hessian").value, spectrum.density(np.zeros(1))]
    for record in records:
        assert (record.num_products, record.seconds, record.precision) == (10, spectrum.seconds, "highest")


def test_no_residual_is_below_rounding():
    spectrum = cv.spectrum(operator_of(symmetric([2.0, 1.0, 0.0, 0.0])), jax.random.key(0), 4)
    assert spectrum.residuals[0, : spectrum.num_valid[0]].min() < spectrum.noise_floor
    assert spectrum.largest.residual >= spectrum.noise_floor > 0
    assert spectrum.smallest.residual >= spectrum.noise_floor


@pytest.mark.parametrize("name", ["log_determinant", "effective_dimension"])
@pytest.mark.parametrize("values", [[1.0, -0.5, 0.0], [0.0, 0.0], [-1e-9, 1.0]])
def test_a_damping_too_small_is_refused_with_one_that_would_do(name, values):
    spectrum = cv.spectrum(operator_of(np.diag(values)), jax.random.key(0), 3)
    for compute in (getattr(spectrum, name), lambda d: getattr(cv.functionals, name)(np.array(values), d)):
        with pytest.raises(InputError, match=f"{name} needs eigenvalues \\+ damping above") as refusal:
            compute(0.0)
        assert "\n" not in str(refusal.value)
        compute(float(str(refusal.value).split()[-3]))


@pytest.mark.parametrize("damping", [np.nan, np.inf, "1", True, np.ones(2), 1j])
def test_a_damping_is_one_number(damping):
    with pytest.raises(InputError, match="damping must be one finite number"):
        cv.functionals.log_determinant(np.ones(2), damping)
