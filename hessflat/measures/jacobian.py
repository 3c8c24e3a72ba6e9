"""The input-output Jacobian norm of *On progressive sharpening*: max and mean of ‖∂f(w, x_i)/∂x_i‖₂, in eval mode."""

import hessflat.curvature as cv
from hessflat.measures.subject import Measured, Scalars, Subject, chunk_size, curvature_data, functions_of, state_of


def jacobian(subject: Subject) -> Measured:
    """Of the outputs, as `jacobian.max` and `.mean`, and where they are logits, of the softmaxed model too."""
    inputs = curvature_data(subject)["inputs"]
    scalars: Scalars = {}
    softmaxed = {"softmax_jacobian": True} if subject.loss == "cross_entropy" else {}
    for name, softmax in {"jacobian": False, **softmaxed}.items():
        norms = cv.jacobian_norms(
            functions_of(subject.model, subject.loss).logits,
            subject.params,
            inputs,
            softmax=softmax,
            batch_size=chunk_size(subject),
            state=state_of(subject),
        )
        scalars |= {f"{name}.max": norms.max, f"{name}.mean": norms.mean}
    return Measured(scalars, {})
