"""The input-output Jacobian norm of *On progressive sharpening*: max and mean of ‖∂f(w, x_i)/∂x_i‖₂, in eval mode."""

import hessflat.curvature as cv
from hessflat.measures.subject import Measured, Scalars, Subject, chunk_size, curvature_data, functions_of, state_of


def jacobian(subject: Subject) -> Measured:
    """Of the logits, as `jacobian.max` and `.mean`, and of the softmaxed model, as `softmax_jacobian.…`."""
    inputs = curvature_data(subject)["inputs"]
    scalars: Scalars = {}
    for name, softmax in (("jacobian", False), ("softmax_jacobian", True)):
        norms = cv.jacobian_norms(
            functions_of(subject.model).logits,
            subject.params,
            inputs,
            softmax=softmax,
            batch_size=chunk_size(subject),
            state=state_of(subject),
        )
        scalars |= {f"{name}.max": norms.max, f"{name}.mean": norms.mean}
    return Measured(scalars, {})
