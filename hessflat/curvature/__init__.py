"""Curvature of any JAX loss: operators, spectra with error bars, extremal eigenpairs, input-output Jacobians.

An operator is a linear map on parameter trees; a measurement only ever sees the map.

>>> import jax, jax.numpy as jnp
>>> import hessflat.curvature as cv
>>> def loss(params, batch):
...     return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
>>> x = jax.random.normal(jax.random.key(0), (50, 3))
>>> data = cv.Batches({"x": x, "y": x.sum(axis=1)}, batch_size=16)
>>> H = cv.hessian(loss, {"w": jnp.zeros(3)}, data)
>>> spectrum = cv.spectrum(H, jax.random.key(1), num_steps=3, num_probes=4)
>>> bool(jnp.allclose(spectrum.largest.value, cv.eigvalsh(H)[-1], rtol=1e-5))
True
>>> round(float(cv.sharpness(H + 1.0, jax.random.key(2)).value - spectrum.largest.value), 4)
1.0
"""

import importlib
from typing import TYPE_CHECKING

from hessflat.curvature.exact import functionals
from hessflat.curvature.exact.dense import ExactSpectrum, eigvalsh, exact_spectrum
from hessflat.curvature.exact.tails import Outliers, PowerLaw, outliers, power_law
from hessflat.curvature.krylov.block_spectra import BlockSpectra, Heterogeneity, block_spectra, heterogeneity
from hessflat.curvature.krylov.eigenpairs import EigenPairs, eigenpairs, sharpness
from hessflat.curvature.krylov.lanczos import Tridiagonals, lanczos
from hessflat.curvature.krylov.quadrature import (
    Density,
    Spectrum,
    ZeroMass,
    log_determinant,
    spectrum,
    spectrum_from_arrays,
    spectrum_to_arrays,
)
from hessflat.curvature.operators.blocks import blocks, restrict
from hessflat.curvature.operators.fishers import fisher, model_fisher
from hessflat.curvature.operators.gradients import gradient
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.matrices import from_matvec, gauss_newton, hessian, residual
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.streams import Stream
from hessflat.curvature.operators.terms import Batches, spread
from hessflat.curvature.stochtrace.estimates import Estimate, Moments, RitzValue, frobenius, moments
from hessflat.curvature.stochtrace.trace import trace
from hessflat.utils import logs

if TYPE_CHECKING:
    from hessflat.curvature import edges
    from hessflat.curvature.decomposition import Decomposition, decompose
    from hessflat.curvature.diagnostics.check import Check, check
    from hessflat.curvature.diagnostics.plan import Plan, plan
    from hessflat.curvature.diagnostics.topology_plan import TopologyPlan
    from hessflat.curvature.directional import (
        CriticalSharpness,
        DirectionalSharpness,
        critical_sharpness,
        directional_sharpness,
    )
    from hessflat.curvature.directions import Direction, random_direction
    from hessflat.curvature.exact.kronecker import KroneckerFactors, kfac
    from hessflat.curvature.exact.ntk import TangentKernel, ntk
    from hessflat.curvature.gradient_noise import (
        BatchSharpness,
        GradientNoiseScale,
        batch_sharpness,
        gradient_noise_scale,
    )
    from hessflat.curvature.jacobian import JacobianNorms, jacobian_norms
    from hessflat.curvature.krylov.solve import Nystrom, Solution, nystrom, solve
    from hessflat.curvature.landscape import Line, Plane, along, line, plane
    from hessflat.curvature.minibatch import (
        MinibatchProducts,
        MinibatchSharpness,
        gradient_covariance,
        minibatch_products,
        minibatch_sharpness,
    )
    from hessflat.curvature.operators.preconditioning import preconditioned
    from hessflat.curvature.operators.softmax import softmax_gauss_newton
    from hessflat.curvature.preconditioners import preconditioner
    from hessflat.curvature.stochtrace.diagonal import Diagonal, diagonal
    from hessflat.curvature.stochtrace.distances import block_diagonal_error, relative_distance
    from hessflat.curvature.subspaces import (
        Share,
        SharpnessGradient,
        sharpness_gradient,
        subspace_overlap,
        subspace_share,
    )
    from hessflat.curvature.tracking.measure import TrackerState
    from hessflat.curvature.tracking.tracker import Tracker, tracker

__all__ = [
    "BatchSharpness",
    "Batches",
    "BlockSpectra",
    "Check",
    "CriticalSharpness",
    "Decomposition",
    "Density",
    "Diagonal",
    "Direction",
    "DirectionalSharpness",
    "EigenPairs",
    "Estimate",
    "ExactSpectrum",
    "GradientNoiseScale",
    "Heterogeneity",
    "JacobianNorms",
    "KroneckerFactors",
    "Line",
    "MinibatchProducts",
    "MinibatchSharpness",
    "Moments",
    "Nystrom",
    "Operator",
    "Outliers",
    "Plan",
    "Plane",
    "PowerLaw",
    "RitzValue",
    "Share",
    "SharpnessGradient",
    "Solution",
    "Spectrum",
    "Stream",
    "TangentKernel",
    "TopologyPlan",
    "Tracker",
    "TrackerState",
    "Tridiagonals",
    "ZeroMass",
    "along",
    "batch_sharpness",
    "block_diagonal_error",
    "block_spectra",
    "blocks",
    "check",
    "critical_sharpness",
    "decompose",
    "diagonal",
    "directional_sharpness",
    "edges",
    "eigenpairs",
    "eigvalsh",
    "exact_spectrum",
    "fisher",
    "frobenius",
    "from_matvec",
    "functionals",
    "gauss_newton",
    "gradient",
    "gradient_covariance",
    "gradient_noise_scale",
    "hessian",
    "heterogeneity",
    "jacobian_norms",
    "kfac",
    "lanczos",
    "line",
    "linearize",
    "log_determinant",
    "logs",
    "minibatch_products",
    "minibatch_sharpness",
    "model_fisher",
    "moments",
    "ntk",
    "nystrom",
    "outliers",
    "plan",
    "plane",
    "power_law",
    "preconditioned",
    "preconditioner",
    "random_direction",
    "relative_distance",
    "residual",
    "restrict",
    "sharpness",
    "sharpness_gradient",
    "softmax_gauss_newton",
    "solve",
    "spectrum",
    "spectrum_from_arrays",
    "spectrum_to_arrays",
    "spread",
    "subspace_overlap",
    "subspace_share",
    "trace",
    "tracker",
]

# The modules that are loaded when something in them is first asked for: most programs use little of them.
_LATER = {
    name: module
    for module, names in {
        "decomposition": "Decomposition decompose",
        "diagnostics.check": "Check check",
        "diagnostics.plan": "Plan plan",
        "diagnostics.topology_plan": "TopologyPlan",
        "directional": "CriticalSharpness DirectionalSharpness critical_sharpness directional_sharpness",
        "directions": "Direction random_direction",
        "exact.kronecker": "KroneckerFactors kfac",
        "exact.ntk": "TangentKernel ntk",
        "gradient_noise": "BatchSharpness GradientNoiseScale batch_sharpness gradient_noise_scale",
        "jacobian": "JacobianNorms jacobian_norms",
        "krylov.solve": "Nystrom Solution nystrom solve",
        "landscape": "Line Plane along line plane",
        "minibatch": "MinibatchProducts MinibatchSharpness gradient_covariance minibatch_products minibatch_sharpness",
        "operators.preconditioning": "preconditioned",
        "operators.softmax": "softmax_gauss_newton",
        "preconditioners": "preconditioner",
        "stochtrace.diagonal": "Diagonal diagonal",
        "stochtrace.distances": "block_diagonal_error relative_distance",
        "subspaces": "Share SharpnessGradient sharpness_gradient subspace_overlap subspace_share",
        "tracking.measure": "TrackerState",
        "tracking.tracker": "Tracker tracker",
    }.items()
    for name in names.split()
}


def _load(name: str) -> object:
    """What has this name, with its module."""
    if name == "edges":
        return importlib.import_module(f"{__name__}.edges")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name))


if not TYPE_CHECKING:  # type checkers see the imports above, and refuse other names
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
