"""Every eigenvalue of curvature matrices, of networks small enough."""

from typing import Annotated

import hessflat.curvature as cv
from hessflat.config import anything, each, one_of
from hessflat.measures.eval_state import OPERATORS, EvalState, curvature_operator, operators_by_key
from hessflat.measures.measurement import Measure, Measurement


def full_spectrum(
    state: EvalState,
    *,
    exact_operators: Annotated[
        tuple[str, ...],
        each(one_of(OPERATORS)),
        "matrices of which every eigenvalue is computed; residual is R = H - G",
    ] = ("hessian",),
    exact_float64: Annotated[bool, anything, "whether products of measure.full_spectrum are taken in float64"] = False,
) -> Measurement:
    """Every eigenvalue of each of `measure.exact_operators`; zero mass is the share below noise."""
    measurement = Measurement({}, {})
    for key, (name, mode) in operators_by_key(exact_operators, state.protocol, state.batch_stats).items():
        spectrum = cv.exact_spectrum(curvature_operator(state, name, mode, spread=False), exact_float64)
        values, prefix = spectrum.values, f"{key}.exact"
        measurement.scalars.update(
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
        measurement.arrays[f"{key}-exact"] = {"eigenvalues": values}
    return measurement


MEASURE = Measure(
    full_spectrum,
    # As many products as parameters, and the eigenvalues of a matrix of that size.
    for_tokens=True,
    cost=lambda settings, num_params: 2 * num_params * len(settings.exact_operators),
    doc="every eigenvalue is computed",
    names={
        "<operator>.exact.lambda_max": ("λ_max(<operator>), exact", r"$\lambda_{\max}(<operator>)$, exact"),
        "<operator>.exact.lambda_min": ("λ_min(<operator>), exact", r"$\lambda_{\min}(<operator>)$, exact"),
        "<operator>.exact.trace": ("Tr <operator>, exact", r"$\mathrm{Tr}\,<operator>$, exact"),
        "<operator>.exact.mean_eigenvalue": (
            "mean eigenvalue of <operator>, exact",
            r"mean eigenvalue of $<operator>$, exact",
        ),
        "<operator>.exact.frobenius": ("‖<operator>‖_F, exact", r"$\|<operator>\|_F$, exact"),
        "<operator>.exact.second_moment": (
            "Σλ²/P of <operator>, exact",
            r"$\Sigma\lambda^2/P$ of $<operator>$, exact",
        ),
        "<operator>.exact.zero_mass": ("zero mass of <operator>, exact", r"zero mass of $<operator>$, exact"),
        "<operator>.exact.noise_floor": (
            "float32 noise floor of <operator>, exact",
            r"float32 noise floor of $<operator>$, exact",
        ),
    },
)
