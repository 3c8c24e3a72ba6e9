"""The outputs of every example, for figures of a fitted function."""

import numpy as np

from hessflat.measures.eval_state import EvalState, evaluated
from hessflat.measures.measurement import Measure, Measurement
from hessflat.utils import hardware


def predictions(state: EvalState) -> Measurement:
    """Array file `predictions`, of each split: `<split>_inputs`, `<split>_labels` and `<split>_outputs` [n, C].

    Batch norm is in eval mode. Outputs are logits where the entry of the loss in `LOSSES` says so.
    """
    logits = state.functions().logits
    arrays = {}
    for name, split in state.splits.items():
        arrays[f"{name}_inputs"], arrays[f"{name}_labels"] = np.asarray(split["inputs"]), np.asarray(split["labels"])
        arrays[f"{name}_outputs"] = hardware.on_host(
            evaluated(logits, state.params, split["inputs"], state.batch_stats)
        )
    return Measurement({}, {"predictions": arrays})


MEASURE = Measure(predictions, cost=lambda settings, num_params: 1, doc="the outputs of every example are stored")
