"""Spectra of the Hessian and the Gauss-Newton matrix: by Lanczos quadrature, and exactly where P allows."""

import jax

import hessflat.curvature as cv
from hessflat.measures.subject import Arrays, Scalars, Subject, chunk_size, curvature_data, functions_of


def operator_of(subject: Subject, name: str) -> cv.Operator:
    """The Hessian or the Gauss-Newton matrix of the mean loss over the measured examples."""
    functions = functions_of(subject.model)
    batches = cv.Batches(curvature_data(subject), chunk_size(subject))
    if name == "hessian":
        return cv.hessian(functions.loss, subject.params, batches)
    return cv.gauss_newton(functions.predict, functions.criterion, subject.params, batches)


def spectra(subject: Subject) -> tuple[Scalars, Arrays]:
    """Numbers and nodes of each operator's spectrum, from the same probes at every step and in every run.

    Common probes make the differences between runs, which the claims are about, less noisy than the values.
    """
    scalars: Scalars = {}
    arrays: Arrays = {}
    settings = subject.settings
    for name in settings["operators"]:
        op = operator_of(subject, name)
        spectrum_key, moments_key = jax.random.split(jax.random.key(settings["seed"]))
        spectrum = cv.spectrum(op, spectrum_key, settings["lanczos_steps"], settings["probes"], show_progress=False)
        moments = cv.moments(op, moments_key, settings["trace_probes"])
        scalars |= {f"{name}.{key}": value for key, value in _numbers(spectrum, moments, name).items()}
        arrays[name] = cv.spectrum_to_arrays(spectrum)
    return scalars, arrays


def _numbers(spectrum: cv.Spectrum, moments: cv.Moments, name: str) -> Scalars:
    """Extremes and the mass at zero from the quadrature; the moments, which a product per probe gives, from those."""
    largest, smallest = spectrum.largest, spectrum.smallest
    mass = spectrum.zero_mass("hessian" if name == "hessian" else "gauss_newton")
    scalars: Scalars = {
        "lambda_max": largest.value,
        "lambda_max_bound": largest.residual,
        "lambda_min": smallest.value,
        "lambda_min_bound": smallest.residual,
        "zero_value": mass.value.value,
        "noise_floor": spectrum.noise_floor,
    }
    estimates = {
        "trace": moments.trace,
        "mean_eigenvalue": moments.mean_eigenvalue,
        "frobenius": moments.frobenius,
        "second_moment": moments.second_moment,
        "zero_mass": mass.weight,
    }
    for key, estimate in estimates.items():
        scalars[key], scalars[f"{key}_se"] = estimate.value, estimate.standard_error
    return scalars


def exact(subject: Subject) -> tuple[Scalars, Arrays]:
    """Every eigenvalue of the Hessian, where `measure.exact` asks for them; zero mass is the share below noise."""
    when = subject.settings["exact"]
    if when == "never" or (when == "end" and not subject.is_last):
        return {}, {}
    spectrum = cv.exact_spectrum(operator_of(subject, "hessian"))
    values = spectrum.values
    return {
        "hessian.exact.lambda_max": float(values.max()),
        "hessian.exact.lambda_min": float(values.min()),
        "hessian.exact.trace": spectrum.trace,
        "hessian.exact.mean_eigenvalue": spectrum.mean_eigenvalue,
        "hessian.exact.frobenius": spectrum.frobenius,
        "hessian.exact.second_moment": spectrum.second_moment,
        "hessian.exact.zero_mass": spectrum.zero_mass(),
    }, {"hessian-exact": {"eigenvalues": values}}
