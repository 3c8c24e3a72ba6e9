"""Which examples of the validation and test splits are answered right, from which accuracies get their intervals."""

import zlib

import numpy as np

from hessflat.measures.eval_state import EvalState
from hessflat.measures.measurement import Measure, Measurement
from hessflat.measures.performance import losses_and_answers


def answers(state: EvalState) -> Measurement:
    """Array file `answers`, of each split but the training one, and of classes alone.

    `<split>` has a bit for each example, eight to a byte, `<split>_size` their number. `<split>_labels` is the CRC-32
    of the labels, by which runs know whether they were asked the same examples.
    """
    # Of all splits, so that the program is that of `performance`.
    right = {name: one for name, (_, one) in losses_and_answers(state, list(state.splits)).items() if name != "train"}
    arrays = {}
    for name, one in right.items():
        if one is not None:
            labels = np.ascontiguousarray(state.splits[name]["labels"], np.int32)
            arrays[name], arrays[f"{name}_size"] = np.packbits(one), np.array(len(one))
            arrays[f"{name}_labels"] = np.array(zlib.crc32(labels.tobytes()))
    return Measurement({}, {"answers": arrays} if arrays else {})


MEASURE = Measure(
    answers,
    cost=lambda settings, num_params: 1,
    doc="which examples of validation and test are right is stored",
    due="end",
)
