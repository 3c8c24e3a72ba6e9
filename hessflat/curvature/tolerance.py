"""How much noise parameters stand: the deviation at which a mean rises by a given amount."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.perturbations import Problem, make_problem, straight, times, value_at
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.errors import InputError

# Of two, by which deviations are tried, up and down from the start.
_MOST_POWERS = 20


class Tolerance(NamedTuple):
    """The standard deviation of noise under which a mean rises by a given amount."""

    deviation: float  # σ
    relative_error: float  # the standard error of log σ over draws, by the jackknife; nan for a single draw
    rises: np.ndarray  # [draws, n] of each draw of noise, both signs together, at `deviations`
    deviations: np.ndarray  # [n] that were tried, ascending
    num_evaluations: int  # passes over the data
    seconds: float
    precision: str


def noise_tolerance(
    function: Callable[..., Any],
    params: Any,
    data: Any,
    allowed: float,
    key: Array,
    *,
    scales: Any = None,
    num_draws: int = 4,
    start: float = 0.01,
    state: Any = None,
) -> Tolerance:
    """The σ at which the mean of `function` under w + σ c ⊙ z, z standard normal, is `allowed` above that at w.

    The PAC-Bayesian flatness of Dziugaite et al. (2020, *In search of robust measures of generalization*)
    and Jiang et al. (2020, *Fantastic generalization measures*) is 1 / σ². All σ have the same draws of z,
    with both signs; the first σ are powers of two times `start`, up to the first at which the rise is larger, then the
    bracket is halved in log σ, and σ interpolated in the last one, of 9 %.

    A departure: where the rise is not monotone in σ, this is the smallest σ at which it is reached and not the largest.

    Args:
        function: `function(params, batch)` -> a mean over the batch, such as the loss or the share of wrong answers.
        params: as in `worst_case`.
        data: as in `worst_case`; the short last batch counts too.
        allowed: the rise.
        key: a JAX random key.
        scales: as in `worst_case`.
        num_draws: of z.
        start: the first σ.
        state: a third argument of `function`.

    Raises:
        InputError: an amount that no σ between 2⁻²⁰ and 2²⁰ times `start` reaches, or as `worst_case`.
    """
    began, num_draws = time.perf_counter(), numerics.require_draws("num_draws", num_draws)
    allowed = numerics.require_number("allowed", allowed, above=0)
    problem = make_problem(function, params, data, start, key, scales, state, straight)
    tried: dict[float, np.ndarray] = {}
    with numerics.matmul_precision():
        base = _mean(problem, jax.tree.map(jnp.zeros_like, problem.params))
        if not np.isfinite(base):
            raise InputError("the mean is not finite at these parameters; look at it there")

        def is_reached(power: float) -> bool:
            if power not in tried:
                factor = 2**power
                # Drawn again for each σ: all draws together may not fit into memory.
                noises = map(problem.normal, range(num_draws))
                pairs = [[_mean(problem, times(noise, sign * factor)) for sign in (1, -1)] for noise in noises]
                tried[power] = np.mean(pairs, axis=1) - base
            return not tried[power].mean() <= allowed  # what is not finite is too large

        low = _bracket(is_reached)
        if low is None:
            raise InputError(
                f"noise makes the mean rise by {allowed:g} at none of the standard deviations from "
                f"{start * 2.0**-_MOST_POWERS:g} to {start * 2.0**_MOST_POWERS:g}; allow another rise"
            )
        for step in (0.5, 0.25, 0.125):
            low = low if is_reached(low + step) else low + step
        is_reached(low + 0.125)
    powers = np.array(sorted(tried))
    rises = np.stack([tried[power] for power in powers], axis=1)
    whole = _crossing(powers, rises.mean(axis=0), allowed)
    error = float("nan")
    if num_draws > 1:
        others = [_crossing(powers, np.delete(rises, j, axis=0).mean(axis=0), allowed) for j in range(num_draws)]
        error = np.log(2) * (num_draws - 1) * float(estimates.standard_error(np.array(others)))
    return Tolerance(
        start * 2.0**whole,
        error,
        rises,
        start * 2.0**powers,
        1 + 2 * num_draws * len(powers),
        time.perf_counter() - began,
        numerics.precision_name(params),
    )


def _bracket(is_reached: Callable[[float], bool]) -> float | None:
    """The largest whole power at which it is not, from 0 on; None where there is none within the most."""
    power = 0.0
    if is_reached(power):
        while is_reached(power):
            power -= 1
            if power < -_MOST_POWERS:
                return None
        return power
    while not is_reached(power + 1):
        power += 1
        if power >= _MOST_POWERS:
            return None
    return power


def _crossing(powers: np.ndarray, rises: np.ndarray, allowed: float) -> float:
    """Where the rise is first `allowed`, linear between powers; nan where it is at none of them."""
    above = np.flatnonzero(~(rises <= allowed))
    if not len(above) or not above[0]:
        return float("nan")
    i, j = above[0] - 1, above[0]
    share = (allowed - rises[i]) / (rises[j] - rises[i]) if np.isfinite(rises[j]) else 0.0
    return float(powers[i] + share * (powers[j] - powers[i]))


def _mean(problem: Problem, unit: Any) -> float:
    """The mean over all data, the short last batch too, at u = ρ `unit`."""
    batches, total = problem.batches, []
    for start, size in batches.cuts:
        batch = batches.take(start, size), problem.spare
        total.append(size / batches.num_examples * value_at(*problem.static, *problem.traced, unit, batch))
    return float(sum(total))
