"""The options of a tracker, checked."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from hessflat.curvature import numerics
from hessflat.curvature.minibatch import CentredLosses
from hessflat.curvature.operators.gradients import require_loss
from hessflat.curvature.operators.operator import Operator, layout_of, require_operator
from hessflat.curvature.operators.terms import Term
from hessflat.curvature.tracking import moved, ritz, subset
from hessflat.curvature.tracking.moved import Outline
from hessflat.curvature.vectors import Layout
from hessflat.utils.errors import InputError, require_known, shown

QUANTITIES = ("lambda_max", "preconditioned_lambda_max", "trace", "critical_sharpness")
_STEPS = 8
_LEAST_EXAMPLES = 4  # for each of several groups
_RTOL, _RTOL_OF_A_PART = 0.02, 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Options:
    """Everything that is static; equal options are one object (`interned`), so that calls need not compare them."""

    outline: Outline
    layout: Layout
    every: int
    quantities: tuple[str, ...]
    ritz: ritz.Settings
    epsilon: float
    count: int | None  # examples of a measurement
    total: int  # N, where count is given
    pieces: int  # in which the examples are spread over devices
    groups: int
    preconditioner: Callable[[Any, Any], Any] | None
    num_probes: int = 2
    memory: float = 0.8


@functools.lru_cache(maxsize=256)
def interned(*fields: Any) -> Options:
    return Options(*fields)


def checked(
    op: Operator,
    every: int,
    quantities: Sequence[str],
    k: int,
    num_steps: int | None,
    rtol: float | None,
    examples: int | None,
    preconditioner: Callable[[Any, Any], Any] | None,
) -> tuple[list[jax.Array], Options]:
    """The arrays of an operator, and the options of a tracker of it."""
    require_operator(op)
    op = op.as_it_is_now()
    if not op.in_memory:
        raise InputError("a tracker needs data in memory, got a stream; give cv.Batches of some of its examples")
    if not all(isinstance(term, Term) for term in op.terms):
        raise InputError("track the operator before its linearisation is made, not after")
    if any(isinstance(term.functions[0].function, CentredLosses) for term in op.terms):
        raise InputError("the covariance of gradients holds the mean gradient at its own parameters; track cv.fisher")
    names = tuple(quantities) if isinstance(quantities, list | tuple) else (quantities,)
    require_known("quantity", names, QUANTITIES)
    if "critical_sharpness" in names:
        require_loss(op)
    if not names:
        raise InputError(f"quantities must name at least one of {', '.join(QUANTITIES)}")
    if ("preconditioned_lambda_max" in names) != (preconditioner is not None):
        raise InputError(
            "preconditioned_lambda_max and preconditioner belong together: give both, as "
            "preconditioner=functools.partial(cv.preconditioner, b1=0.9, b2=0.999, eps=1e-8), or neither"
        )
    if preconditioner is not None:
        numerics.require_function("preconditioner", preconditioner)
    k = numerics.require_count("k", k)
    steps = k + _STEPS - 1 if num_steps is None else numerics.require_count("num_steps", num_steps)
    if k > op.size or (steps <= k < op.size):
        raise InputError(f"k must be below num_steps, and at most the size of the operator, {op.size}; got {k}")
    count, total, pieces, groups = None, 0, 1, 1
    if examples is not None:
        total, unit = moved.num_examples(op), subset.unit_of(op)
        count = numerics.require_count("examples", examples, _LEAST_EXAMPLES)
        if count >= total:
            raise InputError(f"examples must be fewer than the {total} of the data, got {count}; leave it out for all")
        groups = subset.num_groups(count, unit)
        pieces = max(1 if t.batches.devices is None else t.batches.devices.pieces for t in op.terms)
    if "trace" in names and len({str(jax.tree.structure((t.params, t.rest, t.state))) for t in op.terms}) > 1:
        raise InputError("a trace needs terms with the same parameters, and the same state; track each by itself")
    if rtol is None:
        rtol = _RTOL if examples is None else _RTOL_OF_A_PART
    settings = ritz.Settings(k, min(steps, op.size), numerics.require_number("rtol", rtol, above=-1e-300))
    epsilon = numerics.epsilon(op.dtype, numerics.precision_name(op))
    every = numerics.require_count("every", every)
    outline, arrays = moved.outline(op)
    own = layout_of(op), every, names, settings, epsilon, count, total, pieces, groups, preconditioner
    return arrays, Options(outline, *own)


def share(what: str, value: float) -> float:
    number = numerics.require_number(what, value, above=-1e-300)
    if number >= 1:
        raise InputError(f"{what} must be from 0 to below 1, got {shown(value)}")
    return number
