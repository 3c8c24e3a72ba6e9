"""Learning-rate schedules: factors of the initial rate as a function of t, the number of finished epochs.

A builder takes T, the epochs of the run, and the epoch from which iterates are averaged, 0 where none are.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from hessflat.config import Rule, between, positive
from hessflat.utils.errors import InputError

Schedule = Callable[[jax.Array], jax.Array]

_increasing = Rule(lambda epochs: all(a < b for a, b in itertools.pairwise(epochs)), "increasing epochs")


def constant(num_epochs: int, average_from: int) -> Schedule:
    """The initial rate throughout."""
    return lambda epoch: jnp.ones_like(epoch, dtype=float)


def linear_decay(
    num_epochs: int,
    average_from: int,
    *,
    final_ratio: Annotated[float, between(0, 1), "last rate as a share of the first"] = 0.01,
) -> Schedule:
    """*Flatness is a False Friend*, eq. 12: 1 until T/2, linear from there to `final_ratio` at 0.9 T, then that."""
    return lambda epoch: _linear(epoch / num_epochs, final_ratio)


def iterate_averaging(
    num_epochs: int,
    average_from: int,
    *,
    final_ratio: Annotated[float, between(0, 1), "rate while iterates are averaged as a share of the first"] = 0.5,
) -> Schedule:
    """*Flatness is a False Friend*, eq. 13: as `linear_decay` with T_avg, the start of averaging, for T; then constant.

    The paper writes t/T in the sloped part; t/T_avg is what makes the schedule continuous, and is taken here.
    """
    if not average_from:
        raise InputError(
            "config.schedule.name='iterate_averaging' needs config.train.average_from, the epoch where averaging "
            "starts; set it above 0, or use 'linear_decay'"
        )
    return lambda epoch: _linear(epoch / average_from, final_ratio)


def step_decay(
    num_epochs: int,
    average_from: int,
    *,
    after: Annotated[tuple[int, ...], _increasing, "epochs after which the rate is multiplied"] = (50, 80),
    factor: Annotated[float, positive, "what it is multiplied by"] = 0.1,
) -> Schedule:
    """*On progressive sharpening*, §6.3: divided by ten after epochs 50 and 80 of 90."""

    def multiplied(epoch: jax.Array) -> jax.Array:
        return factor ** sum((epoch >= end).astype(float) for end in after) * jnp.ones_like(epoch, float)

    return multiplied


def _linear(share: jax.Array, final_ratio: float) -> jax.Array:
    """1 until half of the time, linear from there to `final_ratio` at nine tenths, then that."""
    return jnp.clip(1 - (1 - final_ratio) * (share - 0.5) / 0.4, final_ratio, 1.0)


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear_decay": linear_decay,
    "iterate_averaging": iterate_averaging,
    "step_decay": step_decay,
}
