"""Curvature along the update of an optimiser: directional and critical sharpness, of any optimiser.

Both are of a step d = −u / η, where the optimiser adds u at the learning rate η. For gradient descent d is the
gradient.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.operators.gradients import gradient, loss_at, require_loss
from hessflat.curvature.operators.operator import Operator, require_finite, require_operator
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.errors import InputError

# Of the losses, and so by how much a difference of two is not known.
_ROUNDINGS = 4
# How far a search goes at once beyond what it knows.
_REACH = 10.0
# Passes after which every other step halves the bracket, whatever the losses say.
_PATIENCE = 8


@record(
    "curvature along an update u",
    {"u'Hu/u'u": "value ± residual", "u'Hu/(−η g'u)": "critical"},
)
class DirectionalSharpness(NamedTuple):
    """The curvature along a vector u."""

    value: float  # u'Hu / u'u; some eigenvalue of H lies within `residual` of it
    residual: float  # ‖Hu − value u‖ / ‖u‖
    critical: float  # u'Hu / (−η g'u), whose edge is 2 / η; nan where u is no descent or the operator has no loss
    num_products: int
    seconds: float
    precision: str


@record(
    lambda self: f"critical sharpness, from {self.num_passes} forward passes",
    {"λ_c": "value", "from": "lower", "to": "upper", "η_c": "step"},
)
class CriticalSharpness(NamedTuple):
    """2 / η_c, with η_c the least learning rate at which a step along an update does not lower the loss."""

    value: float  # nan where the passes did not bracket η_c, or the loss changes by its rounding alone
    lower: float  # the end of the interval, from the bracket and the rounding of losses
    upper: float  # its other end
    step: float  # η_c
    num_passes: int  # forward passes over all examples
    seconds: float
    precision: str


class Bracket(NamedTuple):
    """The multiple x of an update at which the loss is what it was: between `lower` and `upper`; scalars."""

    value: Array  # nan where there is no bracket
    lower: Array  # the largest multiple known that lowers the loss; 0 where none is
    upper: Array  # the least known that does not; inf where none is
    num_passes: Array


def directional_sharpness(op: Operator, updates: Any, learning_rate: float = 1.0) -> DirectionalSharpness:
    """The curvature along an update u of an optimiser at the learning rate η, whatever the optimiser.

    On a quadratic, the loss falls along u if and only if u'Hu / (−η g'u) < 2 / η, so that this number, of gradient
    descent g'Hg / g'g, has the edge 2 / η for every optimiser (Roulet et al. 2024, *Stepping on the edge*, section 2).
    It is the second order of `critical_sharpness`, and takes one product, and one gradient if `op` is a Hessian.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: the curvature.
        updates: u, a tree like the parameters, such as `optimiser.update` gives. Its length does not matter.
        learning_rate: η, that u was made with; 1 gives the number for u as a whole, whose edge is 2.

    Raises:
        InputError: updates of another structure, or zero; products that are not finite.
    """
    began = time.perf_counter()
    require_operator(op)
    updates = _checked(op, updates)
    rate = numerics.require_number("learning_rate", learning_rate, above=0)
    product = op(updates)
    uu, uhu = (float(_dot(updates, x)) for x in (updates, product))
    require_finite(uu, uhu)
    if not uu > 0:
        raise InputError("updates must not be zero: they have no direction")
    value = uhu / uu
    rest = jax.tree.map(lambda p, u: p - value * u, product, updates)
    slope = float("nan")
    if _has_loss(op):
        slope = float(_dot(gradient(op), updates))
    critical = uhu / (-rate * slope) if slope < 0 else float("nan")
    residual = float(jnp.sqrt(_dot(rest, rest) / uu))
    return DirectionalSharpness(value, residual, critical, *estimates.cost_since(began, 1, op))


def critical_sharpness(
    op: Operator, updates: Any, learning_rate: float = 1.0, *, start: float = 1.0, rtol: float = 0.05, passes: int = 24
) -> CriticalSharpness:
    """λ_c = 2 / η_c, with η_c the least learning rate at which a step along the update does not lower the loss.

    Kalra et al. (2026, *A scalable measure of loss landscape curvature for analyzing the training dynamics of LLMs*,
    arXiv 2601.16979). For gradient descent on a quadratic it is g'Hg / g'g; of any optimiser, its edge is 2 / η. With
    the Hessian of one loss and the updates made with the gradient of another it is their relative critical sharpness
    of the first while the second is trained on.

    The authors bracket η_c by doubling and halve the bracket. Here the next step is where a parabola through the losses
    that are known comes back, so that 5 or 6 forward passes over the data of `op` are enough where the loss is about
    one; they are one compiled loop. If the loss crosses its value several times, η_c is one of these places.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: the Hessian of the loss, whose data are in memory; no product of it is taken.
        updates: what the optimiser adds to the parameters, a tree like them.
        learning_rate: η, that the updates were made with.
        start: the first multiple of the updates that is tried, such as η_c / η of an earlier call.
        rtol: the width of the bracket of η_c relative to it.
        passes: the maximum number of forward passes.

    Raises:
        InputError: an operator that is no Hessian, a stream, updates of another structure, numbers out of range.

    >>> import jax, jax.numpy as jnp
    >>> import hessflat.curvature as cv
    >>> H = cv.hessian(lambda w, x: jnp.mean((x @ w) ** 2) / 2, jnp.ones(2), 2 * jnp.eye(2))
    >>> result = cv.critical_sharpness(H, -0.1 * cv.gradient(H), learning_rate=0.1)
    >>> round(result.value, 3), result.num_passes  # the Hessian is 2 times the identity
    (2.0, 5)
    """
    began = time.perf_counter()
    require_operator(op)
    require_loss(op)
    updates = _checked(op, updates)
    rate, start, rtol = (
        numerics.require_number(name, value, above=0)
        for name, value in (("learning_rate", learning_rate), ("start", start), ("rtol", rtol))
    )
    passes = numerics.require_count("passes", passes, least=3)
    with numerics.matmul_precision():
        found = _critical_multiple(op.as_it_is_now(), updates, start, rtol, passes)
    value, lower, upper = (float(x) * rate for x in found[:3])
    cost = estimates.cost_since(began, int(found.num_passes), op)
    above = 2 / lower if lower > 0 else float("inf")
    return CriticalSharpness(2 / value, 2 / upper, above, value, *cost)


def critical_multiple(op: Operator, updates: Any, start: Any = 1.0, rtol: Any = 0.05, passes: int = 24) -> Bracket:
    """The search of `critical_sharpness` by itself, for use under `jit`: λ_c = 2 / (η `value`).

    Args:
        op: as there; a pytree, so that it may be made inside or be an argument.
        updates: as there.
        start: as there.
        rtol: as there.
        passes: as there.
    """
    if not op.in_memory:
        raise InputError("critical sharpness needs examples in memory, got a stream; give cv.Batches of its examples")

    def loss(x: Array) -> Array:
        moved = jax.tree.map(lambda w, u: (w + x.astype(u.dtype) * u).astype(w.dtype), op.params, updates)
        return loss_at(op, moved)

    base = loss(jnp.zeros(()))
    nan, one = jnp.full((), jnp.nan), jnp.asarray(start, jnp.float32)
    low, high = _End(jnp.zeros(()), nan), _End(jnp.full((), jnp.inf), nan)
    state = _Search(low, high, _End(nan, nan), one, jnp.asarray(1), jnp.asarray(True))

    def goes_on(state: _Search) -> Array:
        closed = jnp.isfinite(state.high.at) & (state.high.at - state.low.at <= rtol * state.high.at)
        result: Array = (state.passes < passes) & ~closed
        return result

    def step(state: _Search) -> _Search:
        value = loss(state.next)
        change = value - base
        risen = ~(change <= 0)  # nan has risen, and no change has not
        end = _End(state.next, jnp.where(jnp.isfinite(change), change / state.next, jnp.inf).astype(jnp.float32))
        low = jax.tree.map(partial(jnp.where, risen), state.low, end)
        high = jax.tree.map(partial(jnp.where, risen), end, state.high)
        # What the end on the same side was, which gives a parabola while the other side is unknown.
        before = jax.tree.map(partial(jnp.where, risen), state.high, state.low)
        after = _Search(low, high, before, end.at, state.passes + 1, risen)
        return after._replace(next=_next(after, rtol))

    found = jax.lax.while_loop(goes_on, step, state)
    low, high = found.low, found.high
    bracketed = (low.at > 0) & jnp.isfinite(high.at)
    value = jnp.where(bracketed, _within(_zero(low, high), low.at, high.at), jnp.nan)
    # Changes of the loss at the two ends, over their distance.
    slope = (high.at * high.rise - low.at * low.rise) / (high.at - low.at)
    unsure = _ROUNDINGS * jnp.finfo(base.dtype).eps * jnp.abs(base) / slope
    unsure = jnp.where(bracketed & jnp.isfinite(unsure) & (unsure > 0), unsure, 0.0)
    value = jnp.where(unsure > value / 2, jnp.nan, value)
    return Bracket(value, jnp.maximum(low.at - unsure, 0.0), high.at + unsure, found.passes)


_critical_multiple = jax.jit(critical_multiple, static_argnames="passes")


class _End(NamedTuple):
    """A multiple x of the update, and how much the loss rises there, divided by x: linear in x on a quadratic."""

    at: Array
    rise: Array


class _Search(NamedTuple):
    """What is known of the bracket."""

    low: _End
    high: _End
    before: _End  # the former end on the side that was last found
    next: Array  # the multiple that is tried next
    passes: Array
    is_high: Array  # whether `high` was found last


def _zero(a: _End, b: _End) -> Array:
    """Where the line through two ends is zero."""
    return a.at - a.rise * (b.at - a.at) / (b.rise - a.rise)


def _within(x: Array, low: Array, high: Array) -> Array:
    """`x` where it is between the two, else their geometric mean."""
    return jnp.where((x > low) & (x < high), x, jnp.sqrt(low * high))


def _next(state: _Search, rtol: Any) -> Array:
    """The multiple to try: a little beside where the loss should come back, so that both ends close in on it."""
    low, high, beside = state.low, state.high, 0.45 * rtol
    up = _zero(state.before, low) * (1 + beside)
    up = jnp.where(jnp.isfinite(up) & (up > low.at), jnp.clip(up, 1.5 * low.at, _REACH * low.at), 2 * low.at)
    down = _zero(state.before, high) * (1 - beside)
    down = jnp.where(jnp.isfinite(down) & (down > 0), jnp.clip(down, high.at / _REACH, high.at / 1.5), high.at / 2)
    middle = jnp.sqrt(low.at * high.at)
    zero = _within(_zero(low, high), low.at, high.at)
    below, above = zero * (1 - beside), zero * (1 + beside)
    between = jnp.where(state.is_high, below, above)
    between = jnp.where(between <= low.at, above, jnp.where(between >= high.at, below, between))
    between = jnp.where((between <= low.at) | (between >= high.at), middle, between)
    between = jnp.where((state.passes >= _PATIENCE) & (state.passes % 2 == 0), middle, between)
    return jnp.where(~jnp.isfinite(high.at), up, jnp.where(low.at == 0, down, between))


def _checked(op: Operator, updates: Any) -> Any:
    updates = numerics.as_arrays("updates", updates)
    numerics.require_like("updates", updates, op.params)
    return jax.tree.map(lambda u, like: u.astype(like.dtype), updates, op.vector_like)


def _has_loss(op: Operator) -> bool:
    try:
        require_loss(op)
    except InputError:
        return False
    return True


_dot = jax.jit(vectors.dot)
