"""What tests of measures share: a state made by hand, and what measures say of it."""

from types import SimpleNamespace

import jax

from hessflat import measures
from hessflat.measures import EvalState, Protocol


def eval_state(
    model, params, batch_stats, splits, num_classes=3, loss="cross_entropy", label_smoothing=0.0, data=None, **protocol
):
    """A state on one device; what is not given of the protocol is at its defaults."""
    chosen = Protocol(**protocol)
    return EvalState(
        model,
        params,
        batch_stats,
        splits,
        num_classes,
        loss,
        label_smoothing,
        chosen,
        {},
        0,
        lambda: params,
        data or {},
    )


def with_factor_moved(state, factor):
    """The same function: `factor` moved from the first of two dense layers to the second."""
    first, second = state.params["Dense_0"], state.params["Dense_1"]
    moved = {
        "Dense_0": jax.tree.map(lambda x: factor * x, first),
        "Dense_1": {"kernel": second["kernel"] / factor, "bias": second["bias"]},
    }
    return state._replace(params=moved)


def measured(state, *names, **settings):
    """The measures of these names, with their other settings at the defaults."""
    defaults = {name: setting.default for name, setting in measures.measure_settings().items()}
    return measures.measure(state, names, SimpleNamespace(**defaults | settings))
