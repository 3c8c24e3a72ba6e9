"""The outputs themselves, for figures of a fitted function."""

import jax
import numpy as np

from hessflat.measures.subject import Measured, Subject, functions_of


def fit(subject: Subject) -> Measured:
    """Array file `fit`: of each split `<split>_inputs`, `<split>_labels` and `<split>_outputs` [n, C], in eval mode.

    Of cross-entropy the outputs are logits.
    """
    logits = jax.jit(functions_of(subject.model, subject.loss).logits)
    arrays = {}
    for name, split in subject.splits.items():
        arrays[f"{name}_inputs"], arrays[f"{name}_labels"] = np.asarray(split["inputs"]), np.asarray(split["labels"])
        arrays[f"{name}_outputs"] = np.asarray(logits(subject.params, split["inputs"], subject.statistics))
    return Measured({}, {"fit": arrays})
