"""Spectra of curvature matrices by Lanczos quadrature."""

from typing import Annotated

import jax

import hessflat.curvature as cv
from hessflat.config import at_least, whole
from hessflat.measures.eval_state import OPERATORS, EvalState, curvature_operator, operators_by_key
from hessflat.measures.measurement import Measure, Measurement, Scalars, TraceProbes


def spectra(
    state: EvalState,
    *,
    lanczos_steps: Annotated[int, at_least(1), "steps of each Lanczos run"] = 100,
    probes: Annotated[int, whole(1, 1_000_000), "Lanczos runs for a spectrum; a standard error needs two"] = 2,
    trace_probes: TraceProbes = 20,
) -> Measurement:
    """Numbers and nodes of each operator's spectrum, from the same probes at every step and in every run.

    Common probes make the differences between runs, which the claims are about, less noisy than the values. Names end
    in `_eval` where batch norm was in eval mode.
    """
    measurement = Measurement({}, {})
    operators = operators_by_key(state.protocol.operators, state.protocol, state.batch_stats)
    for key, (name, mode) in operators.items():
        op = cv.linearize(curvature_operator(state, name, mode))
        spectrum_key, moments_key = jax.random.split(jax.random.key(state.protocol.seed))
        spectrum = cv.spectrum(op, spectrum_key, lanczos_steps, probes, show_progress=False)
        moments = cv.moments(op, moments_key, trace_probes)
        measurement.scalars.update({f"{key}.{k}": value for k, value in _numbers(spectrum, moments, name).items()})
        measurement.arrays[key] = cv.spectrum_to_arrays(spectrum)
    return measurement


def _numbers(spectrum: cv.Spectrum, moments: cv.Moments, name: str) -> Scalars:
    """Extremes and the mass at zero from the quadrature; the moments, which a product per probe gives, from those."""
    largest, smallest = spectrum.largest, spectrum.smallest
    mass = spectrum.zero_mass(OPERATORS[name].zero_mass)
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


MEASURE = Measure(
    spectra,
    for_tokens=True,
    cost=lambda settings, num_params: (
        (settings.probes * settings.lanczos_steps + settings.trace_probes) * len(settings.operators)
    ),
    doc="spectra are estimated by Lanczos quadrature",
    due="growth",
    names={
        "<operator>.lambda_max": ("λ_max(<operator>)", r"$\lambda_{\max}(<operator>)$"),
        "<operator>.lambda_min": ("λ_min(<operator>)", r"$\lambda_{\min}(<operator>)$"),
        "<operator>.trace": ("Tr <operator>", r"$\mathrm{Tr}\,<operator>$"),
        "<operator>.mean_eigenvalue": ("mean eigenvalue of <operator>", r"mean eigenvalue of $<operator>$"),
        "<operator>.frobenius": ("‖<operator>‖_F", r"$\|<operator>\|_F$"),
        "<operator>.second_moment": ("Σλ²/P of <operator>", r"$\Sigma\lambda^2/P$ of $<operator>$"),
        "<operator>.zero_mass": ("zero mass of <operator>", r"zero mass of $<operator>$"),
        "<operator>.zero_value": ("Ritz value nearest zero of <operator>", r"Ritz value nearest zero of $<operator>$"),
        "<operator>.noise_floor": ("float32 noise floor of <operator>", r"float32 noise floor of $<operator>$"),
    },
)
