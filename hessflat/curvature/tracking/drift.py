"""The trace of a matrix that changes from step to step, by the difference of two steps on the same probes.

With A the matrix now, A' that of the last measurement and t' its estimate, the estimate now is

    t = (1 − γ) t' + mean_i z_iᵀ (A − (1 − γ) A') z_i

over fresh random signs z_i (Dharangutte and Musco 2021, *Dynamic trace estimation*, DeltaShift). Its mean is Tr A if
that of t' is Tr A', whatever the step: the probes are independent of t'. Its variance is (1 − γ)² that of t' and that
of the mean, which is small where A is near A' or γ is small: for a matrix that stands still it falls to γ / (2 − γ) of
that of fresh probes alone. Here γ is fixed: one that is chosen by the samples would make the estimate biased.

Departure: the variance of the mean is that of the samples and not a bound by norms.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import vectors
from hessflat.curvature.operators.operator import Operator, matvec
from hessflat.curvature.vectors import Layout


class Trace(NamedTuple):
    """An estimate and the variance of it."""

    value: Array  # []
    variance: Array  # []


def following(
    operators: Callable[[Array], tuple[Operator, Operator]],
    layout: Layout,
    last: Trace,
    is_first: Array,
    key: Array,
    num_probes: int,
    memory: float,
) -> Trace:
    """The estimate after `last`.

    Args:
        operators: of a probe's number the operator now and that of the last measurement, over the same examples.
        layout: where their vectors lie.
        last: the last estimate.
        is_first: whether there is none.
        key: for the probes.
        num_probes: their number, at least 2; each takes two products.
        memory: 1 − γ.
    """
    kept = jnp.where(is_first, 0.0, memory).astype(layout.dtype)

    def sample(number: Array) -> Array:
        signs = vectors.drawn_inside(layout, jax.random.fold_in(key, number), jax.random.rademacher)
        now, before = operators(number)
        product = matvec(now, layout, signs)
        old = jax.lax.cond(
            is_first,
            lambda: jnp.zeros((), layout.dtype),
            lambda: vectors.dot(signs, matvec(before, layout, signs)),
        )
        difference: Array = vectors.dot(signs, product) - kept * old
        return difference

    samples = jax.lax.map(sample, jnp.arange(num_probes))
    before = jnp.where(is_first, 0, last.value)
    uncertain = jnp.where(is_first, 0, last.variance)
    spread = jnp.var(samples, ddof=1) / num_probes
    return Trace(kept * before + jnp.mean(samples), kept**2 * uncertain + spread)
