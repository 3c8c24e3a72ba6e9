"""Learning-rate schedules: factors of the initial rate as a function of t, the number of finished epochs."""

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from hessflat.rules import Rule, between, positive

Schedule = Callable[[jax.Array], jax.Array]

_increasing = Rule(lambda epochs: all(a < b for a, b in itertools.pairwise(epochs)), "increasing epochs")


def constant(num_epochs: int) -> Schedule:
    """The initial rate throughout."""
    return lambda epoch: jnp.ones_like(epoch, dtype=float)


def linear_decay(
    num_epochs: int,
    *,
    final_ratio: Annotated[float, between(0, 1), "last rate as a share of the first"] = 0.01,
) -> Schedule:
    """*Flatness is a False Friend*, eq. 12: 1 until T/2, linear from there to `final_ratio` at 0.9 T, then that."""

    def factor(epoch: jax.Array) -> jax.Array:
        decayed = 1 - (1 - final_ratio) * (epoch / num_epochs - 0.5) / 0.4
        return jnp.clip(decayed, final_ratio, 1.0)

    return factor


def step_decay(
    num_epochs: int,
    *,
    after: Annotated[tuple[int, ...], _increasing, "epochs after which the rate is multiplied"] = (50, 80),
    factor: Annotated[float, positive, "what it is multiplied by"] = 0.1,
) -> Schedule:
    """*On progressive sharpening*, §6.3: divided by ten after epochs 50 and 80 of 90."""

    def multiplied(epoch: jax.Array) -> jax.Array:
        return factor ** sum((epoch >= end).astype(float) for end in after) * jnp.ones_like(epoch, float)

    return multiplied


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear_decay": linear_decay,
    "step_decay": step_decay,
}
