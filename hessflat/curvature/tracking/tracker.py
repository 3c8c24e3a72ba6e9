"""What is measured along a training, as pure functions: a state, and an update at the steps of a timetable."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import as_batches
from hessflat.curvature.tracking import moved, ritz
from hessflat.curvature.tracking.drift import Trace
from hessflat.curvature.tracking.measure import TrackerState, Training, measure_compiled, measure_now, place
from hessflat.curvature.tracking.options import Options, checked, interned, share
from hessflat.utils.errors import InputError


class Tracker(NamedTuple):
    """`init(params, key)` -> state, and `update(state, params, step, opt_state=None, ...)` -> (state, metrics)."""

    init: Callable[..., TrackerState]  # `init(params, key)`
    update: Callable[..., tuple[TrackerState, dict[str, Array]]]  # scalars by name, each with its error


def tracker(
    op: Operator,
    every: int = 20,
    quantities: Sequence[str] = ("lambda_max",),
    k: int = 1,
    num_steps: int | None = None,
    rtol: float | None = None,
    examples: int | None = None,
    preconditioner: Callable[[Any, Any], Any] | None = None,
    trace_probes: int = 2,
    trace_memory: float = 0.8,
) -> Tracker:
    """Measure `op` during training, every so many steps, by one compiled program for each measurement.

    `init(params, key)` gives a state, and `update(state, params, step, opt_state=None, model_state=None, data=None,
    updates=None, learning_rate=1.0)` the next one and a dictionary of scalars. With a Python number as `step` the
    dictionary is empty, and nothing is started, where nothing is due. Inside `jax.jit` or `lax.scan`, or with a step
    that is an array, it is a `lax.cond`, whose scalars are nan where nothing is due. `params` are those of the
    training. `model_state` and `data` replace the state of the operator's functions and its examples. `opt_state` is
    for `preconditioner`. `updates`, what the optimiser adds to `params` at the learning rate, are for the critical
    sharpness. Inside a program of yours, give `data`: what it does not take as an argument is a constant of it.

    - `lambda_max`, and `lambda_2` to `lambda_k`: Ritz values of Lanczos with full re-orthogonalisation, begun with the
      vectors of the last measurement. Within `lambda_max_residual` of each there is an eigenvalue. It takes 2 to 4
      products where H changes little between two measurements, and `num_products` says how many it took. Each tenth
      measurement begins half at random and takes `num_steps`, so that an eigenvalue that the vectors of the others have
      nothing of is found then at the latest, as surely as by `num_steps` of any Lanczos.
    - `preconditioned_lambda_max`: the same of P^-1/2 A P^-1/2, as `preconditioned` has it.
    - `trace` with `trace_standard_error`: the difference of two measurements on the same fresh probes, added to the
      last estimate (Dharangutte and Musco 2021, DeltaShift, with a fixed γ). It is unbiased at every step, and its
      error falls below that of the probes alone while the trace changes little; 4 products with two probes.
    - `critical_sharpness` with `critical_sharpness_lower` and `_upper`: as `cv.critical_sharpness` has it, over all
      examples, the search begun where the last one ended; 4 to 6 forward passes.

    With `examples=n` each measurement takes n of the N examples, a window of a random order that moves on. Two numbers
    say what that costs. `lambda_max_standard_error` is the error of the sampling. `lambda_max_bias` is about how much
    too large the value is because its vector fits these examples best. Both are to second order in the error of the
    matrix, the bias with the other eigenvalues taken to be near 0. They take one product. They come from groups of the
    n examples, and are nan where one group alone has weight. Each probe of a trace takes other examples, and its
    standard error has their part in it.

    Args:
        op: an operator over data in memory: a Hessian, a Gauss-Newton matrix or others, sums, blocks, with weights.
            Only the shapes and places of its parameters are kept. Its functions are as they are now.
        every: the number of steps between measurements.
        quantities: which of "lambda_max", "preconditioned_lambda_max", "trace" and "critical_sharpness".
        k: the number of eigenvalues.
        num_steps: the maximum number of products for them; None takes 7 more than k.
        rtol: they end when each residual is at most `rtol` |value|; the error of a value is of second order in it. None
            takes 0.02, and 0.1 with `examples`, whose sampling leaves more open than that. 0 takes all steps.
        examples: n; None takes all.
        preconditioner: `preconditioner(opt_state, params)` -> P, a tree like `params`: `cv.preconditioner`, with the
            settings of the optimiser bound where its state does not hold them. P that is not known yet gives nan.
        trace_probes: the number of probes, at least 2.
        trace_memory: 1 − γ, the weight of what was before.

    Raises:
        InputError: a stream, a linearised operator, counts out of range, an unknown quantity, a quantity without what
            it needs, parameters of another structure or type, a state of another tracker, data or a state that the
            operator's functions do not take.

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
    arrays, options = checked(op, every, quantities, k, num_steps, rtol, examples, preconditioner)
    options = dataclasses.replace(
        options,
        num_probes=numerics.require_draws("trace_probes", trace_probes, 2),
        memory=share("trace_memory", trace_memory),
    )
    options = interned(*(getattr(options, field.name) for field in dataclasses.fields(options)))
    return Tracker(functools.partial(_init, options, arrays), functools.partial(_update, options, arrays))


def _init(options: Options, arrays: list[Array], params: Any, key: Array) -> TrackerState:
    """The state before the first measurement."""
    if not numerics.any_traced(key):
        numerics.require_key(key)
    op = moved.moved(options.outline.around(arrays), params)
    state = _empty(options, key)
    # Copies: those of the training may be donated to its next step.
    return state if state.trace is None else state._replace(before=jax.tree.map(jnp.copy, place(op)))


def _empty(options: Options, key: Array) -> TrackerState:
    """What depends on no parameters; every array is there once, so that the state may be donated."""
    own, shuffled = jax.random.split(key)
    kept = {
        name: vectors.zeros(options.layout, ritz.num_kept(options.ritz))
        for name in options.quantities
        if name.endswith("lambda_max")
    }
    order, trace = None, None
    if options.count is not None:
        order = jax.random.permutation(shuffled, options.total // options.pieces)
    if "trace" in options.quantities:
        trace = Trace(jnp.zeros((), options.layout.dtype), jnp.zeros((), options.layout.dtype))
    multiple = jnp.ones(()) if "critical_sharpness" in options.quantities else None
    return TrackerState(own, jnp.zeros((), jnp.int32), kept, order, trace, None, multiple)


def _update(
    options: Options,
    arrays: list[Array],
    state: TrackerState,
    params: Any,
    step: Any,
    opt_state: Any = None,
    model_state: Any = None,
    data: Any = None,
    updates: Any = None,
    learning_rate: Any = 1.0,
) -> tuple[TrackerState, dict[str, Array]]:
    """The next state and what was measured; see `tracker`."""
    result: tuple[TrackerState, dict[str, Array]]
    is_number = not isinstance(step, jax.Array)
    if is_number and numerics.require_count("step", step, 0) % options.every:
        return state, {}
    if ("critical_sharpness" in options.quantities) != (updates is not None):
        raise InputError("critical_sharpness and updates belong together: give update(..., updates=u) what is added")
    _require_own(options, state)
    if isinstance(learning_rate, jax.Array):  # its value is not waited for
        if learning_rate.shape:
            raise InputError(f"learning_rate must be one number, got shape {learning_rate.shape}")
    else:
        numerics.require_number("learning_rate", learning_rate, above=0)
    examples = None if data is None else as_batches(data).arrays
    training = Training(params, model_state, examples, opt_state, updates, learning_rate)
    if is_number:
        # What is not an array is looked at by the program's tracing, once for each structure and shapes.
        result = measure_compiled(options, arrays, state, training)
        return result
    if step.shape != () or not jnp.issubdtype(step.dtype, jnp.integer):
        raise InputError(f"step must be one whole number, got shape {step.shape} of type {step.dtype}")
    result = _measure_when_due(options, arrays, state, training, step)
    return result


def _require_own(options: Options, state: TrackerState) -> None:
    """Refuse a state of another tracker, or one that lost its structure on its way through a checkpoint."""
    if not isinstance(state, TrackerState) or _form(state) != _own_form(options):
        raise InputError(
            "state must be what init or update of a tracker with the same options gave; a checkpoint is restored into "
            "the structure of init(params, key)"
        )


@functools.lru_cache(maxsize=256)
def _own_form(options: Options) -> Any:
    return _form(jax.eval_shape(functools.partial(_empty, options), jax.random.key(0)))


def _form(state: TrackerState) -> Any:
    """The structure and the shapes of what a state holds for each quantity."""
    leaves, structure = jax.tree.flatten((state.kept, state.order, state.trace, state.multiple))
    return structure, [jnp.shape(leaf) for leaf in leaves]


@functools.partial(jax.jit, static_argnums=0)
def _measure_when_due(
    options: Options, arrays: list[Array], state: TrackerState, training: Training, step: Array
) -> tuple[TrackerState, dict[str, Array]]:
    measure = functools.partial(measure_now, options)
    like = jax.eval_shape(measure, arrays, state, training)[1]
    nothing = {name: jnp.full((), jnp.nan, leaf.dtype) for name, leaf in like.items()}
    result: tuple[TrackerState, dict[str, Array]] = jax.lax.cond(
        step % options.every == 0, measure, lambda arrays, state, training: (state, nothing), arrays, state, training
    )
    return result
