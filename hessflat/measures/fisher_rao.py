"""The Fisher-Rao norm of the weights (Liang et al. 2019, *Fisher-Rao metric, geometry, and complexity*)."""

import math

import numpy as np

from hessflat.curvature.sampling import quadratic_forms, subset_error
from hessflat.measures.eval_state import EvalState, curvature_batches
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.training.optimisation import LOSSES


def fisher_rao(state: EvalState) -> Measurement:
    """(wᵀ F w)^½ over all parameters w, exact, batch norm in eval mode; larger is sharper. Section 3, definition 2.

    `fisher_rao.empirical` has F = E ∇ℓ ∇ℓᵀ with the labels of the data, the targets that the run is trained with;
    `fisher_rao.model` has the labels that the model would draw, for which F is the Gauss-Newton matrix, where outputs
    are `logits` of the loss. Each `_se` is the standard error of the measured examples as a sample of the training
    split.

    A factor that moves from one layer of a ReLU network to the next changes nothing. For L + 1 layers without biases
    wᵀ∇ℓ = (L + 1) ⟨∂ℓ/∂f, f⟩ (theorem 3.1), which depends on the function alone.
    """
    functions, batches = state.functions(), curvature_batches(state, "eval")
    forms = quadratic_forms(
        functions.predict, functions.losses, state.params, state.params, batches, state.curvature_state
    )
    squares = {"empirical": forms.gradient**2}
    if LOSSES[state.loss].logits:
        squares["model"] = forms.gauss_newton
    population = len(state.splits["train"]["labels"])
    scalars: Scalars = {}
    for name, values in squares.items():
        norm = math.sqrt(max(float(np.mean(values)), 0.0))
        error = subset_error(values, population)
        # By the delta method; of a norm of 0 the error of the square is all that is known.
        error = error / (2 * norm) if norm > 0 else math.sqrt(error)
        scalars |= {f"fisher_rao.{name}": norm, f"fisher_rao.{name}_se": error}
    return Measurement(scalars, {})


MEASURE = Measure(
    fisher_rao,
    cost=lambda settings, num_params: 1,
    doc="the Fisher-Rao norm of the weights is measured",
    names={
        "fisher_rao.empirical": "Fisher-Rao norm, labels of the data",
        "fisher_rao.model": "Fisher-Rao norm, labels of the model",
    },
)
