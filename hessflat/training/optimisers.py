"""Optimisers by name. To add one: a function `(learning_rate, l2, mask, *, settings)` and a line in `OPTIMISERS`.

`learning_rate` is an optax schedule of the step, `l2` a traced number, so a sweep over either compiles once; `mask`
says which parameters `l2` is for. Gadam is `adamw` with `train.average_from` and the schedule `iterate_averaging`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import optax

from hessflat.config import anything, below, positive

Mask = Callable[[Any], Any] | None

_FirstDecay = Annotated[float, below(0, 1), "decay of the first moment"]
_SecondDecay = Annotated[float, below(0, 1), "decay of the second moment"]
_Epsilon = Annotated[float, positive, "added to the root of the second moment"]


def kernels(params: Any) -> Any:
    """Weight decay for kernels, but not for biases nor for the parameters of normalisation, which are vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


# None is every parameter, as the papers have it.
WEIGHT_DECAY_MASKS: Mapping[str, Mask] = {"all": None, "kernels": kernels}


def sgd(
    learning_rate: optax.Schedule,
    l2: jax.Array,
    mask: Mask,
    *,
    momentum: Annotated[float, below(0, 1), "ρ: z ← ρ z + gradient, w ← w − lr z"] = 0.9,
    nesterov: Annotated[bool, anything, "look ahead along the momentum"] = False,
) -> optax.GradientTransformation:
    """Momentum SGD as in *Flatness is a False Friend*, eq. 18; `l2 w` is added to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(l2, mask), optax.sgd(learning_rate, momentum if momentum else None, nesterov)
    )


def adam(
    learning_rate: optax.Schedule,
    l2: jax.Array,
    mask: Mask,
    *,
    b1: _FirstDecay = 0.9,
    b2: _SecondDecay = 0.999,
    eps: _Epsilon = 1e-8,
) -> optax.GradientTransformation:
    """Adam; `l2 w` is added to the gradient."""
    return optax.chain(optax.add_decayed_weights(l2, mask), optax.adam(learning_rate, b1, b2, eps))


def adamw(
    learning_rate: optax.Schedule,
    l2: jax.Array,
    mask: Mask,
    *,
    b1: _FirstDecay = 0.9,
    b2: _SecondDecay = 0.999,
    eps: _Epsilon = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled decay: w ← w − lr (step + l2 w)."""
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=l2, mask=mask)


OPTIMISERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
