"""Numbers about one trained state, a module for each measure. To add one: its module, and its name in `_MODULES`.

What is derived from the modules: the settings `measure.*`, what a run costs, what tables and axes call its numbers.
"""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

from hessflat.config.validators import Setting, builder_settings, timetable
from hessflat.measures.eval_state import EvalState, Protocol
from hessflat.measures.measurement import Measure, Measurement
from hessflat.measures.operators import OPERATORS

__all__ = [
    "MEASURES",
    "OPERATORS",
    "EvalState",
    "Measure",
    "Measurement",
    "Protocol",
    "make_protocol",
    "measure",
    "measure_settings",
]

# In this order, so that a run whose curvature cannot be measured has its losses first.
_MODULES = (
    "performance",
    "outputs",
    "spectra",
    "sharpness",
    "scaled_sharpness",
    "full_spectrum",
    "spectrum_edges",
    "jacobian",
    "layer_input_norms",
    "predictions",
    "layer_jacobians",
    "loss_limit",
    "reparameterised",
    "sensitivity",
    "batch_norm",
    "lipschitz",
    "linear_interpolation",
)
MEASURES: Mapping[str, Measure] = {name: import_module(f"{__name__}.{name}").MEASURE for name in _MODULES}


def measure_settings() -> dict[str, Setting]:
    """The settings `measure.*`: when each measure is due, the protocol, and what single measures take.

    Measures may share a setting, but not its name alone: a default, a rule or a meaning of its own is refused.
    """
    derived = {name: Setting(one.due, timetable, f"when {one.doc}") for name, one in MEASURES.items()}
    builders: list[Callable] = [Protocol, *(one.compute for one in MEASURES.values())]
    for builder in builders:
        for name, setting in builder_settings(builder).items():
            if derived.setdefault(name, setting) != setting:
                raise TypeError(f"two measures define the setting measure.{name}, and not alike")
    return derived


def make_protocol(settings: Any) -> Protocol:
    """The shared settings out of the block `measure` of a configuration."""
    return Protocol(**_taken(Protocol, settings))


def measure(state: EvalState, due: Collection[str], settings: Any) -> Measurement:
    """The measures whose names are due, together, with the settings of the block `measure` of a configuration.

    Of a number that two of them give, the later and more precise one.
    """
    together = Measurement({}, {})
    for name, one in MEASURES.items():
        if name in due:
            own = one.compute(state, **_taken(one.compute, settings))
            starts = own.starts or together.starts
            together = Measurement(together.scalars | own.scalars, together.arrays | own.arrays, starts)
    return together


def _taken(builder: Callable, settings: Any) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in builder_settings(builder)}
