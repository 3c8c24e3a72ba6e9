"""Spectra of the Hessian, the Gauss-Newton matrix and what is between: by Lanczos, the largest alone, exactly."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.measures.subject import Measured, Scalars, Subject, batches_of, functions_of, modes_of, state_of


def operator_of(subject: Subject, name: str, mode: str) -> cv.Operator:
    """`hessian`, `gauss_newton` or `residual` of the mean loss over the measured examples."""
    functions, batches = functions_of(subject.model, subject.loss, mode), batches_of(subject, mode)
    if name == "hessian":
        return cv.hessian(functions.loss, subject.params, batches, state_of(subject))
    make = {"gauss_newton": cv.gauss_newton, "residual": cv.residual}[name]
    return make(functions.predict, functions.criterion, subject.params, batches, state_of(subject))


def spectra(subject: Subject) -> Measured:
    """Numbers and nodes of each operator's spectrum, from the same probes at every step and in every run.

    Common probes make the differences between runs, which the claims are about, less noisy than the values. Names end
    in `_eval` where batch norm was in eval mode.
    """
    found = Measured({}, {})
    settings = subject.settings
    for operator, (name, mode) in named(subject.settings, subject.statistics, "operators").items():
        op = cv.linearize(operator_of(subject, name, mode))
        spectrum_key, moments_key = jax.random.split(jax.random.key(settings["seed"]))
        spectrum = cv.spectrum(op, spectrum_key, settings["lanczos_steps"], settings["probes"], show_progress=False)
        moments = cv.moments(op, moments_key, settings["trace_probes"])
        found.scalars.update({f"{operator}.{key}": v for key, v in _numbers(spectrum, moments, name).items()})
        found.arrays[operator] = cv.spectrum_to_arrays(spectrum)
    return found


def sharpness(subject: Subject) -> Measured:
    """λ_max of each operator to `measure.rtol`, from the eigenvector that was found when it was measured before."""
    found, starts = Measured({}, {}), {}
    for operator, (name, mode) in named(subject.settings, subject.statistics, "operators").items():
        before = subject.starts[operator]
        pairs = cv.eigenpairs(
            operator_of(subject, name, mode),
            jax.random.key(subject.settings["seed"]),
            rtol=subject.settings["rtol"],
            start=before if bool(jnp.any(before != 0)) else None,
            show_progress=False,
        )
        found.scalars[f"{operator}.lambda_max"] = float(pairs.values[0])
        found.scalars[f"{operator}.lambda_max_bound"] = float(pairs.residuals[0])
        starts[operator] = _flat(pairs.vectors)
    return found._replace(starts=starts)


def no_starts(settings: Mapping[str, Any], params: Any, statistics: Any) -> dict[str, jax.Array]:
    """What `Subject.starts` is before anything was found."""
    return {operator: jnp.zeros_like(_flat(params)) for operator in named(settings, statistics, "operators")}


def exact(subject: Subject) -> Measured:
    """Every eigenvalue of each of `measure.exact_operators`; zero mass is the share below noise."""
    found = Measured({}, {})
    for operator, (name, mode) in named(subject.settings, subject.statistics, "exact_operators").items():
        spectrum = cv.exact_spectrum(operator_of(subject, name, mode), subject.settings["exact_float64"])
        values, prefix = spectrum.values, f"{operator}.exact"
        found.scalars.update(
            {
                f"{prefix}.lambda_max": float(values.max()),
                f"{prefix}.lambda_min": float(values.min()),
                f"{prefix}.trace": spectrum.trace,
                f"{prefix}.mean_eigenvalue": spectrum.mean_eigenvalue,
                f"{prefix}.frobenius": spectrum.frobenius,
                f"{prefix}.second_moment": spectrum.second_moment,
                f"{prefix}.zero_mass": spectrum.zero_mass(),
                f"{prefix}.noise_floor": spectrum.noise_floor,
            }
        )
        found.arrays[f"{operator}-exact"] = {"eigenvalues": values}
    return found


def named(settings: Mapping[str, Any], statistics: Any, which: str) -> Mapping[str, tuple[str, str]]:
    """Operator and mode of batch norm, by the name that their numbers go under; `which` is a setting of operators."""
    modes = modes_of(settings, statistics)
    return {f"{name}{suffix}": (name, mode) for name in settings[which] for suffix, mode in modes.items()}


def _flat(tree: Any) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


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
