"""One measurement of a tracker: everything that is asked for, as one function of arrays."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics, trees, vectors
from hessflat.curvature.directional import critical_multiple
from hessflat.curvature.operators.linearize import linearize_within
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.preconditioning import preconditioned
from hessflat.curvature.tracking import drift, moved, ritz, subset
from hessflat.curvature.tracking.drift import Trace
from hessflat.curvature.tracking.options import Options
from hessflat.utils.errors import InputError


class TrackerState(NamedTuple):
    """What a measurement leaves for the next one: arrays alone, so that any checkpoint can hold it."""

    key: Array  # [] of the random draws
    num_measured: Array  # [] int32
    kept: dict[str, Any]  # by quantity, what `ritz.Ritz` has of vectors; zeros before the first measurement
    order: Array | None  # [N] numbers of examples in random order; None where all are taken
    trace: Trace | None  # the last estimate
    before: Any  # what the operator of the last estimate of the trace was at; None without
    multiple: Array | None  # [] of the update, at which the last search for the critical sharpness ended


class Training(NamedTuple):
    """What is known of the training at a step."""

    params: Any
    model_state: Any
    examples: Any  # the arrays of `Batches`, or None for those of the operator
    opt_state: Any
    updates: Any
    learning_rate: Any


def measure_now(
    options: Options, arrays: list[Array], state: TrackerState, training: Training
) -> tuple[TrackerState, dict[str, Array]]:
    """The next state and what was measured.

    Args:
        options: static; they hold the operator as shapes.
        arrays: what it holds beside its parameters.
        state: that of the last measurement.
        training: where the training is.
    """
    with numerics.matmul_precision():
        op = moved.moved(options.outline.around(arrays), training.params, training.model_state, training.examples)
        return _measured(op, options, state, training)


measure_compiled = jax.jit(measure_now, static_argnums=0)


def _measured(
    op: Operator, options: Options, state: TrackerState, training: Training
) -> tuple[TrackerState, dict[str, Array]]:
    number, kept, metrics = state.num_measured, dict(state.kept), dict[str, Array]()
    key = jax.random.fold_in(state.key, number)
    part = op if options.count is None else moved.over_examples(op, _window(options, state.order, number))
    products = jnp.zeros((), jnp.int32)
    for name in kept:
        matrix = part
        if name == "preconditioned_lambda_max":
            assert options.preconditioner is not None
            P = options.preconditioner(training.opt_state, training.params)
            matrix = preconditioned(part, trees.select(P, part.params))
        found, count = _largest(matrix, options, state, name, key)
        metrics |= found.metrics
        kept[name], products = found.kept, products + count
    trace, before = state.trace, state.before
    if trace is not None:
        # There is no estimate yet, or the last one is lost.
        begins = (number == 0) | ~jnp.isfinite(trace.value + trace.variance)
        trace = _trace(op, options, state, begins, jax.random.fold_in(key, 1))
        metrics |= {"trace": trace.value, "trace_standard_error": jnp.sqrt(trace.variance)}
        before, products = place(op), products + options.num_probes * jnp.where(begins, 1, 2)
    multiple = state.multiple
    if multiple is not None:
        critical, multiple = _critical(op, training, multiple)
        metrics |= critical
    metrics["num_products"] = products.astype(options.layout.dtype)
    return TrackerState(state.key, number + 1, kept, state.order, trace, before, multiple), metrics


class _Found(NamedTuple):
    """Metrics of one quantity, and the Ritz vectors that stay."""

    metrics: dict[str, Array]
    kept: Any


def _largest(op: Operator, options: Options, state: TrackerState, name: str, key: Array) -> tuple[_Found, Array]:
    """The largest eigenvalues of `op`, and the products that they took."""
    before, layout = state.kept[name], options.layout
    knows_nothing = ~vectors.any_nonzero(jax.tree.map(lambda rows: rows[0], before))
    thorough = (state.num_measured % ritz.THOROUGH == 0) | knows_nothing
    product = linearize_within(op)
    found = ritz.largest(product, layout, options.ritz, before, key, thorough, options.epsilon)
    ends = ["max", *map(str, range(2, options.ritz.k + 1))]
    metrics, count = dict[str, Array](), found.num_products
    for i, end in enumerate(ends):
        full = name.removesuffix("max") + end
        metrics |= {full: found.values[i], f"{full}_residual": found.residuals[i]}
    if options.count is not None:
        vector = jax.tree.map(lambda rows: rows[0], found.vectors)
        error = subset.subset_error(op, layout, options.count, options.total, options.groups, vector)
        metrics |= {f"{name}_standard_error": error.standard_error, f"{name}_bias": error.bias}
        count = count + 1
    is_finite = jnp.isfinite(found.values).all()
    kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), found.vectors, before)
    return _Found(metrics, kept), count


def _critical(op: Operator, training: Training, start: Array) -> tuple[dict[str, Array], Array]:
    """The critical sharpness, and the multiple of the update that the next search begins with."""
    try:
        updates = trees.select(training.updates, op.params)
    except (ValueError, TypeError, KeyError):
        raise InputError("updates must have the structure of params") from None
    numerics.require_like("updates", updates, op.params)
    wide = jax.tree.map(numerics.widened, updates)
    found = critical_multiple(op, wide, start)
    value, lower, upper = (2 / (training.learning_rate * x) for x in (found.value, found.upper, found.lower))
    names = ("critical_sharpness", "critical_sharpness_lower", "critical_sharpness_upper")
    metrics = dict(zip(names, (jnp.asarray(x) for x in (value, lower, upper)), strict=True))
    goes_on = jnp.isfinite(found.value) & (found.value > 0)
    return metrics, jnp.where(goes_on, found.value, 1.0).astype(start.dtype)


def _trace(op: Operator, options: Options, state: TrackerState, begins: Array, key: Array) -> Trace:
    """The next estimate; probes over parts of the examples take different ones."""
    assert state.trace is not None

    def operators(number: Array) -> tuple[Operator, Operator]:
        part = op
        if options.count is not None:
            place = 1 + state.num_measured * options.num_probes + number
            part = moved.over_examples(op, _window(options, state.order, place))
        return part, _back_at(part, state.before)

    return drift.following(operators, options.layout, state.trace, begins, key, options.num_probes, options.memory)


def _window(options: Options, order: Array | None, number: Array) -> Array:
    """The numbers of the examples of one measurement, on one device: the window of that number of the random order."""
    assert order is not None
    assert options.count is not None
    length = options.count // options.pieces
    return jnp.take(order, (number * length + jnp.arange(length)) % len(order))


def place(op: Operator) -> Any:
    """What an operator is at: its parameters, those that are held fixed, and its state."""
    return op.terms[0].params, op.terms[0].rest, op.terms[0].state


def _back_at(op: Operator, place: Any) -> Operator:
    params, rest, state = place
    terms = (dataclasses.replace(term, params=params, rest=rest, state=state) for term in op.terms)
    return dataclasses.replace(op, terms=tuple(terms))
