"""Numbers about one trained state, a module for each measure. To add one: its module, and its name in `_MODULES`.

What is derived from the modules: the settings `measure.*`, what a run costs, what tables and axes call its numbers.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from importlib import import_module
from typing import Any

import jax
import numpy as np

from hessflat.config import Rule, Setting, builder_settings
from hessflat.measures.eval_state import OPERATORS, EvalState, Protocol
from hessflat.measures.measurement import Measure, Measurement
from hessflat.utils import processes
from hessflat.utils.errors import InputError, SettingError, in_one_line, show_traceback

__all__ = [
    "MEASURES",
    "MOST_TIMES",
    "OPERATORS",
    "EvalState",
    "Measure",
    "Measurement",
    "Protocol",
    "failures",
    "make_protocol",
    "measure",
    "measure_settings",
    "timetable_steps",
]

# In this order, so that a run whose curvature cannot be measured has its losses first.
_MODULES = (
    "performance",
    "outputs",
    "spectra",
    "block_spectra",
    "sharpness",
    "scaled_sharpness",
    "sampling_error",
    "m_sharpness",
    "geodesic_sharpness",
    "fisher_rao",
    "pac_bayes",
    "relative_flatness",
    "norms",
    "full_spectrum",
    "spectrum_edges",
    "stability_edge",
    "jacobian",
    "pair_slopes",
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


def _measures_of(name: str) -> Mapping[str, Measure]:
    module = import_module(f"{__name__}.{name}")
    return getattr(module, "MEASURES", None) or {name: module.MEASURE}


MEASURES: Mapping[str, Measure] = {key: one for name in _MODULES for key, one in _measures_of(name).items()}


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

    Products of matrices are in `measure.precision`, whatever JAX's own setting says.

    Of a number that two of them give, the later and more precise one. A measure that fails, for whatever reason, leaves
    the others as they are.

    Raises:
        SettingError: settings of a measure that do not go with the model or the data.
    """
    together = Measurement({}, {})
    for name, one in MEASURES.items():
        if name in due:
            try:
                with (
                    processes.failing_together(),
                    jax.default_matmul_precision(state.protocol.precision),
                ):
                    if state.has_tokens and not one.for_tokens:
                        raise InputError(f"it is not for tokens; set config.measure.{name}='never'")
                    own = one.compute(state, **_taken(one.compute, settings))
                    json.dumps(own.scalars)  # what no line of metrics can hold
                    arrays = {
                        file: {k: np.asarray(v) for k, v in content.items()} for file, content in own.arrays.items()
                    }
                scalars, starts = together.scalars | own.scalars, own.starts or together.starts
            except SettingError:
                raise
            except Exception as error:
                show_traceback()
                together = together._replace(failed={**together.failed, name: in_one_line(error)})
            else:
                together = Measurement(scalars, together.arrays | arrays, starts, together.failed)
    return together


def failures(measurement: Measurement, step: int) -> list[str]:
    """A line for each measure that failed."""
    return [f"{name} is missing at step {step}: {reason}" for name, reason in measurement.failed.items()]


def _taken(builder: Callable, settings: Any) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in builder_settings(builder)}


# Times at which one run is measured, or its training split evaluated, at most.
MOST_TIMES = 1_000_000

_TIMETABLE = (
    "never, start, end, growth (epochs 0, 1, 2, 5, 10, 20, ...), every N steps, every N epochs, "
    "either with `to M steps` or `to M epochs`, M no less than N, at F (a share of the run); several with commas"
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_EVERY = re.compile(rf"every (?:(\d+) )?(step|epoch)s?(?: to {_NUMBER} (step|epoch)s?)?")
_AT = re.compile(rf"at {_NUMBER}")


def timetable_steps(text: str, steps_per_epoch: int, num_steps: int) -> list[int]:
    """The steps of a run of `num_steps` at which `text`, such as `every 5 steps to 1 epoch, growth`, is due, in order.

    What several of its parts say is due once. Everything but `never` is also due at the end of the run, whenever that
    is, so that all runs of a sweep can be compared there.
    """
    if text == "never":
        return []
    due = {num_steps}
    for part in map(str.strip, text.split(",")):
        steps = _part_steps(part, steps_per_epoch, num_steps)
        if len(steps) > MOST_TIMES:
            raise SettingError(
                f"a run of {num_steps:,} steps is measured at most {MOST_TIMES:,} times, got {len(steps):,} by "
                f"{part!r}; measure more rarely, or train fewer steps"
            )
        due.update(steps)
    return sorted(step for step in due if step <= num_steps)


def _part_steps(part: str, steps_per_epoch: int, num_steps: int) -> Sequence[int]:
    if part == "end":
        return []
    if part == "start":
        return [0]
    if part == "growth":
        last = -(-num_steps // steps_per_epoch)
        mantissas = (mantissa * 10**power for power in range(len(str(last))) for mantissa in (1, 2, 5))
        return [0, *(epoch * steps_per_epoch for epoch in mantissas if epoch <= last)]
    if match := _AT.fullmatch(part):
        share = Fraction(match[1])
        if share <= 1:
            return [round(share * num_steps)]
    if match := _EVERY.fullmatch(part):
        unit = {"step": 1, "epoch": steps_per_epoch}
        stride = int(match[1] or 1) * unit[match[2]]
        last = num_steps if match[3] is None else int(Fraction(match[3]) * unit[match[4]])
        within = match[3] is None or match[2] != match[4] or Fraction(match[3]) >= int(match[1] or 1)
        if stride and within:
            return range(0, min(last, num_steps) + 1, stride)
    raise InputError(f"a time of measuring must be {_TIMETABLE}; got {part!r}")


def _is_timetable(text: str) -> bool:
    try:
        timetable_steps(text, 1, 1)
    except InputError:
        return False
    return True


timetable = Rule(_is_timetable, _TIMETABLE)
