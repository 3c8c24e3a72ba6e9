"""The input-output Jacobian norm of *On progressive sharpening*: max and mean of ‖∂f(w, x_i)/∂x_i‖₂, in eval mode.

Beside it stand those of ‖∂f(w, x_i)/∂x_i‖_F, up to the 40 outputs for which the Jacobian is computed row by row.
"""

import hessflat.curvature as cv
from hessflat.measures.eval_state import EvalState, chunk_size, curvature_data
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.training.optimisation import LOSSES


def jacobian(state: EvalState) -> Measurement:
    """Of the outputs, as `jacobian.max` and `.mean`, and where they are `logits` of the loss, of their softmax too."""
    inputs = curvature_data(state)["inputs"]
    scalars: Scalars = {}
    softmaxed = {"softmax_jacobian": True} if LOSSES[state.loss].logits else {}
    for name, softmax in {"jacobian": False, **softmaxed}.items():
        norms = cv.jacobian_norms(
            state.functions().logits,
            state.params,
            inputs,
            softmax=softmax,
            batch_size=chunk_size(state),
            state=state.curvature_state,
        )
        scalars |= {f"{name}.max": norms.max, f"{name}.mean": norms.mean}
        if norms.frobenius is not None:
            scalars[f"{name}.frobenius_max"] = float(norms.frobenius.max())
            scalars[f"{name}.frobenius_mean"] = float(norms.frobenius.mean())
    return Measurement(scalars, {})


MEASURE = Measure(
    jacobian,
    cost=lambda settings, num_params: 2,
    doc="input-output Jacobian norms are measured, in eval mode",
    due="growth",
    names={
        "jacobian.max": ("max ‖∂f/∂x‖₂", r"$\max_i\,\|\partial f/\partial x_i\|_2$"),
        "jacobian.mean": ("mean ‖∂f/∂x‖₂", r"mean $\|\partial f/\partial x_i\|_2$"),
        "jacobian.frobenius_max": ("max ‖∂f/∂x‖_F", r"$\max_i\,\|\partial f/\partial x_i\|_F$"),
        "jacobian.frobenius_mean": ("mean ‖∂f/∂x‖_F", r"mean $\|\partial f/\partial x_i\|_F$"),
        "softmax_jacobian.max": ("max ‖∂σ(f)/∂x‖₂", r"$\max_i\,\|\partial\,\sigma(f)/\partial x_i\|_2$"),
        "softmax_jacobian.mean": ("mean ‖∂σ(f)/∂x‖₂", r"mean $\|\partial\,\sigma(f)/\partial x_i\|_2$"),
        "softmax_jacobian.frobenius_max": (
            "max ‖∂σ(f)/∂x‖_F",
            r"$\max_i\,\|\partial\,\sigma(f)/\partial x_i\|_F$",
        ),
        "softmax_jacobian.frobenius_mean": ("mean ‖∂σ(f)/∂x‖_F", r"mean $\|\partial\,\sigma(f)/\partial x_i\|_F$"),
    },
)
