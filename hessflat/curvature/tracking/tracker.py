"""What is measured along a training, as pure functions: a state, and an update at the steps of a timetable."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics, trees, vectors
from hessflat.curvature.layout import Layout
from hessflat.curvature.minibatch import CentredLosses
from hessflat.curvature.operators.linearize import linearize_within
from hessflat.curvature.operators.operator import Operator, layout_of, require_operator
from hessflat.curvature.operators.preconditioning import preconditioned
from hessflat.curvature.operators.terms import Term
from hessflat.curvature.tracking import drift, moved, ritz, subset
from hessflat.curvature.tracking.drift import Trace
from hessflat.utils.errors import InputError, require_known, shown

QUANTITIES = ("lambda_max", "preconditioned_lambda_max", "trace")
_STEPS = 8
_LEAST_EXAMPLES = 4  # for each of several groups


class TrackerState(NamedTuple):
    """What a measurement leaves for the next one: arrays alone, so that any checkpoint can hold it."""

    key: Array
    num_measured: Array  # [] int32
    kept: dict[str, Any]  # by quantity, Ritz vectors [k + 1, P] as vectors lie; zeros before the first measurement
    order: Array | None  # [N] numbers of examples in random order; None where all are taken
    trace: Trace | None  # the last estimate
    before: Any  # what the operator of the last estimate of the trace was at; None without


class Tracker(NamedTuple):
    """`init(params, key)` -> state, and `update(state, params, step, opt_state=None, ...)` -> (state, metrics)."""

    init: Callable[..., TrackerState]
    update: Callable[..., tuple[TrackerState, dict[str, Array]]]


def tracker(
    op: Operator,
    every: int = 20,
    quantities: Sequence[str] = ("lambda_max",),
    k: int = 1,
    num_steps: int | None = None,
    rtol: float = 0.02,
    examples: int | None = None,
    preconditioner: Callable[[Any, Any], Any] | None = None,
    trace_probes: int = 2,
    trace_memory: float = 0.8,
) -> Tracker:
    """Measure `op` along a training, at every so many steps, in one program a measurement that waits for nothing.

    `init(params, key)` gives a state. `update(state, params, step, opt_state=None, model_state=None, data=None)` gives
    the next one and a dictionary of scalars. With a Python number as `step` it gives an empty dictionary, and starts
    nothing, where nothing is due. Inside `jax.jit` or `lax.scan`, or with a step that is an array, it is a `lax.cond`,
    whose scalars are nan where nothing is due. `params` are those of the training, `model_state` and `data` replace the
    state of the operator's functions and its examples, and `opt_state` is for `preconditioner`. Inside a program of
    yours, give `data`: what it does not take as an argument is a constant of it.

    - `lambda_max`, and `lambda_2` to `lambda_k`: Ritz values of Lanczos with full re-orthogonalisation, begun with the
      vectors of the last measurement. Within `lambda_max_residual` of each there is an eigenvalue. It takes 2 to 4
      products where H changes little between two measurements. Each tenth measurement begins half at random and takes
      `num_steps`, so that an eigenvalue that the vectors of the others have nothing of is found then at the latest, as
      surely as by `num_steps` of any Lanczos.
    - `preconditioned_lambda_max`: the same of P^-1/2 A P^-1/2, as `preconditioned` has it.
    - `trace` with `trace_standard_error`: the difference of two measurements on the same fresh probes, added to the
      last estimate (Dharangutte and Musco 2021, DeltaShift, with a fixed γ). It is unbiased at every step, and its
      error falls below that of the probes alone while the trace changes little; 4 products with two probes.

    With `examples=n` each measurement takes n of the N examples, a window of a random order that moves on, and tells
    what that costs: `lambda_max_standard_error` of the sampling, and `lambda_max_bias`, about how much too large the
    value is for that its vector fits these examples best. Both are to second order in the error of the matrix, the bias
    with the other eigenvalues taken to be near 0. They take one product. Each probe of a trace takes other examples,
    and its standard error has their part in it.

    Args:
        op: an operator over data in memory: a Hessian, a Gauss-Newton matrix or others, sums, blocks, with weights. Of
            its parameters only the shapes and places are kept. Its functions are as they are now.
        every: the number of steps between measurements.
        quantities: which of "lambda_max", "preconditioned_lambda_max" and "trace".
        k: the number of eigenvalues.
        num_steps: the maximum number of products for them; None takes 7 more than k.
        rtol: they end when each residual is at most `rtol` |value|; the error of a value is of second order in it. 0
            takes all steps.
        examples: n; None takes all.
        preconditioner: `preconditioner(opt_state, params)` -> P, a tree like `params`: `cv.preconditioner`, with the
            settings of the optimiser bound where its state does not hold them. P that is not known yet gives nan.
        trace_probes: the number of probes, at least 2.
        trace_memory: 1 − γ, the weight of what was before.

    Raises:
        InputError: a stream, a linearised operator, counts out of range, an unknown quantity, a quantity without what
            it needs, parameters of another structure.

    >>> import jax, jax.numpy as jnp
    >>> import hessflat.curvature as cv
    >>> def loss(w, batch):
    ...     return jnp.mean(w**2 * batch)
    >>> tracker = cv.tracker(cv.hessian(loss, jnp.ones(3), jnp.arange(6.0).reshape(2, 3)), every=2)
    >>> state, w = tracker.init(jnp.ones(3), jax.random.key(0)), jnp.ones(3)
    >>> for step in range(3):
    ...     state, metrics = tracker.update(state, w, step)
    ...     print({name: round(float(value), 3) for name, value in metrics.items() if name == "lambda_max"})
    {'lambda_max': 2.333}
    {}
    {'lambda_max': 2.333}
    """
    template, options = _checked(op, every, quantities, k, num_steps, rtol, examples, preconditioner)
    options = dataclasses.replace(
        options,
        num_probes=numerics.require_draws("trace_probes", trace_probes, 2),
        memory=_share("trace_memory", trace_memory),
    )
    options = _interned(*(getattr(options, field.name) for field in dataclasses.fields(options)))
    return Tracker(functools.partial(_init, template, options), functools.partial(_update, template, options))


@dataclasses.dataclass(frozen=True, eq=False)
class _Options:
    """Everything that is static; equal options are one object (`_interned`), so that calls need not compare them."""

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
def _interned(*fields: Any) -> _Options:
    return _Options(*fields)


def _checked(
    op: Operator,
    every: int,
    quantities: Sequence[str],
    k: int,
    num_steps: int | None,
    rtol: float,
    examples: int | None,
    preconditioner: Callable[[Any, Any], Any] | None,
) -> tuple[Operator, _Options]:
    require_operator(op)
    op = op.as_it_is_now()
    if not op.in_memory:
        raise InputError("a tracker needs data in memory, got a stream; give cv.Batches of some of its examples")
    if not all(isinstance(term, Term) for term in op.terms):
        raise InputError("track the operator before its linearisation is made, not after")
    if any(isinstance(term.functions[0].function, CentredLosses) for term in op.terms):
        raise InputError("the covariance of gradients holds the mean gradient at its own parameters; track cv.fisher")
    names = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    require_known("quantity", names, QUANTITIES)
    if not names:
        raise InputError(f"quantities must name one at least, of {', '.join(QUANTITIES)}")
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
    settings = ritz.Settings(k, min(steps, op.size), numerics.require_number("rtol", rtol, above=-1e-300))
    epsilon = numerics.epsilon(op.dtype, numerics.precision_name(op))
    every = numerics.require_count("every", every)
    options = _Options(layout_of(op), every, names, settings, epsilon, count, total, pieces, groups, preconditioner)
    return moved.without_params(op), options


def _share(what: str, value: float) -> float:
    number = numerics.require_number(what, value, above=-1e-300)
    if number >= 1:
        raise InputError(f"{what} must be from 0 to below 1, got {shown(value)}")
    return number


def _init(template: Operator, options: _Options, params: Any, key: Array) -> TrackerState:
    """The state before the first measurement."""
    if not numerics.any_traced(key):
        numerics.require_key(key)
    op = moved.moved(template, params)
    rows = ritz.num_kept(options.ritz)
    names = [name for name in options.quantities if name != "trace"]
    own, shuffled = jax.random.split(key)
    order = None
    if options.count is not None:
        order = jax.random.permutation(shuffled, options.total // options.pieces)
    trace, before = None, None
    if "trace" in options.quantities:
        zero = jnp.zeros((), options.layout.dtype)
        # Copies: those of the training may be donated to its next step.
        trace, before = Trace(zero, zero), jax.tree.map(jnp.copy, _place(op))
    kept = {name: vectors.zeros(options.layout, rows) for name in names}
    return TrackerState(own, jnp.zeros((), jnp.int32), kept, order, trace, before)


def _update(
    template: Operator,
    options: _Options,
    state: TrackerState,
    params: Any,
    step: Any,
    opt_state: Any = None,
    model_state: Any = None,
    data: Any = None,
) -> tuple[TrackerState, dict[str, Array]]:
    """The next state and what was measured; see `tracker`."""
    result: tuple[TrackerState, dict[str, Array]]
    is_number = not isinstance(step, jax.Array)
    if is_number and numerics.require_count("step", step, 0) % options.every:
        return state, {}
    op = moved.moved(template, params, model_state, data)
    with numerics.matmul_precision():
        if is_number:
            result = _measure_compiled(op, options, state, params, opt_state)
            return result
        if step.shape != () or not jnp.issubdtype(step.dtype, jnp.integer):
            raise InputError(f"step must be one whole number, got shape {step.shape} of type {step.dtype}")
        result = _measure_when_due(op, options, state, params, opt_state, step)
        return result


@functools.partial(jax.jit, static_argnums=1)
def _measure_when_due(
    op: Operator, options: _Options, state: TrackerState, params: Any, opt_state: Any, step: Array
) -> tuple[TrackerState, dict[str, Array]]:
    measure = functools.partial(_measure, options=options, state=state, params=params, opt_state=opt_state)
    like = jax.eval_shape(lambda op: measure(op)[1], op)
    nothing = {name: jnp.full((), jnp.nan, leaf.dtype) for name, leaf in like.items()}
    result: tuple[TrackerState, dict[str, Array]] = jax.lax.cond(
        step % options.every == 0, measure, lambda op: (state, nothing), op
    )
    return result


def _measure(
    op: Operator, options: _Options, state: TrackerState, params: Any, opt_state: Any
) -> tuple[TrackerState, dict[str, Array]]:
    number, kept, metrics = state.num_measured, dict(state.kept), dict[str, Array]()
    key = jax.random.fold_in(state.key, number)
    part = op if options.count is None else moved.over_examples(op, _window(options, state.order, number))
    products = jnp.zeros((), jnp.int32)
    for name in kept:
        matrix = part
        if name == "preconditioned_lambda_max":
            assert options.preconditioner is not None
            matrix = preconditioned(part, trees.select(options.preconditioner(opt_state, params), part.params))
        found, count = _largest(matrix, options, state, name, key)
        metrics |= found.metrics
        kept[name], products = found.kept, products + count
    trace, before = state.trace, state.before
    if trace is not None:
        trace = _trace(op, options, state, jax.random.fold_in(key, 1))
        metrics |= {"trace": trace.value, "trace_standard_error": jnp.sqrt(trace.variance)}
        before, products = _place(op), products + options.num_probes * jnp.where(number == 0, 1, 2)
    metrics["num_products"] = products.astype(options.layout.dtype)
    return TrackerState(state.key, number + 1, kept, state.order, trace, before), metrics


_measure_compiled = jax.jit(_measure, static_argnames="options", static_argnums=1)


class _Found(NamedTuple):
    """Metrics of one quantity, and the Ritz vectors that stay."""

    metrics: dict[str, Array]
    kept: Any


def _largest(op: Operator, options: _Options, state: TrackerState, name: str, key: Array) -> tuple[_Found, Array]:
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


def _trace(op: Operator, options: _Options, state: TrackerState, key: Array) -> Trace:
    """The next estimate; probes over parts of the examples take different ones."""
    assert state.trace is not None

    def operators(number: Array) -> tuple[Operator, Operator]:
        part = op
        if options.count is not None:
            place = 1 + state.num_measured * options.num_probes + number
            part = moved.over_examples(op, _window(options, state.order, place))
        return part, _back_at(part, state.before)

    return drift.following(
        operators, options.layout, state.trace, state.num_measured == 0, key, options.num_probes, options.memory
    )


def _window(options: _Options, order: Array | None, number: Array) -> Array:
    """The numbers of the examples of one measurement, on one device: the window of that number of the random order."""
    assert order is not None
    assert options.count is not None
    length = options.count // options.pieces
    return jnp.take(order, (number * length + jnp.arange(length)) % len(order))


def _place(op: Operator) -> Any:
    """What an operator is at: its parameters, those that are held fixed, and its state."""
    return op.terms[0].params, op.terms[0].rest, op.terms[0].state


def _back_at(op: Operator, place: Any) -> Operator:
    params, rest, state = place
    terms = (dataclasses.replace(term, params=params, rest=rest, state=state) for term in op.terms)
    return dataclasses.replace(op, terms=tuple(terms))
