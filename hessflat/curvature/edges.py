"""The largest curvature at which an optimiser is stable on a quadratic, its edge of stability.

Each takes the learning rate η, a number or an array, and gives a number that λ_max of the matrix in the optimiser's own
coordinates is compared with: of the Hessian, or, where there is a preconditioner P, of `preconditioned(H, P)`. They may
be called inside `jax.jit`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from hessflat.curvature import numerics
from hessflat.utils.errors import InputError, shown


def gradient_descent(learning_rate: Any) -> Any:
    """2 / η, of w ← w − η g; and of w ← w − η P⁻¹ g, as RMSProp has it, for P^-1/2 H P^-1/2.

    Cohen et al. (2021, *Gradient descent on neural networks typically occurs at the edge of stability*, section 2).

    Args:
        learning_rate: η, a number or an array.

    Raises:
        InputError: a learning rate that is not above 0; of values that are traced nothing is known.
    """
    _require_rate(learning_rate)
    return 2 / learning_rate


def heavy_ball(learning_rate: Any, momentum: Any) -> Any:
    """(2 + 2β) / η, of z ← β z + g, w ← w − η z, which is `optax.sgd(η, β)`; Cohen et al. (2021), equation 1.

    Args:
        learning_rate: η, a number or an array.
        momentum: β, a number or an array.

    Raises:
        InputError: a learning rate that is not above 0, or a factor outside [0, 1).

    >>> round(heavy_ball(0.1, 0.9), 6)
    38.0
    """
    _require_rate(learning_rate)
    _require_factor("momentum", momentum)
    return (2 + 2 * momentum) / learning_rate


def nesterov(learning_rate: Any, momentum: Any) -> Any:
    """(2 + 2β) / ((1 + 2β) η), of z ← β z + g, w ← w − η (g + β z); Cohen et al. (2021), equation 1.

    Args:
        learning_rate: η, a number or an array.
        momentum: β, a number or an array.

    Raises:
        InputError: a learning rate that is not above 0, or a factor outside [0, 1).
    """
    _require_rate(learning_rate)
    _require_factor("momentum", momentum)
    return (2 + 2 * momentum) / ((1 + 2 * momentum) * learning_rate)


def adam(learning_rate: Any, b1: Any) -> Any:
    """(2 + 2β1) / ((1 − β1) η), of m ← β1 m + (1 − β1) g, w ← w − η P⁻¹ m, for P^-1/2 H P^-1/2 with P held fixed.

    Cohen et al. (2022, *Adaptive gradient methods at the edge of stability*, section 2); 38 / η at β1 = 0.9.

    Args:
        learning_rate: η, a number or an array.
        b1: β1, a number or an array.

    Raises:
        InputError: a learning rate that is not above 0, or a factor outside [0, 1).
    """
    _require_rate(learning_rate)
    _require_factor("b1", b1)
    return (2 + 2 * b1) / ((1 - b1) * learning_rate)


def sam(learning_rate: Any, radius: Any, gradient_norm: Any) -> Any:
    """‖g‖ / (2ρ) (√(1 + 8ρ / (η ‖g‖)) − 1), of w ← w − η ∇L(w + ρ g / ‖g‖).

    Long and Bartlett (2024, *Sharpness-aware minimization and the edge of stability*, section 3), to first order in ρ.
    At ρ = 0 it is 2 / η, and as ‖g‖ falls it goes to 0. It is computed without the difference, which would cancel.

    Args:
        learning_rate: η, a number or an array.
        radius: ρ, in the unit of the parameters.
        gradient_norm: ‖g‖, in the unit of the loss over that of the parameters.

    Raises:
        InputError: a learning rate that is not above 0, or a radius or norm below 0.
    """
    _require_rate(learning_rate)
    for name, value in (("radius", radius), ("gradient_norm", gradient_norm)):
        _require(name, value, "at least 0", lambda x: x >= 0)
    # Roots of ‖g‖ and of ‖g‖ + 8ρ / η, so that there is a number where ‖g‖ is 0.
    small, large = jnp.sqrt(gradient_norm), jnp.sqrt(gradient_norm + 8 * radius / learning_rate)
    both = jnp.where(large > 0, small + large, 1.0)
    return 4 / learning_rate * jnp.where(large > 0, small / both, 0.5)


def _require_rate(value: Any) -> None:
    _require("learning_rate", value, "above 0", lambda x: x > 0)


def _require_factor(name: str, value: Any) -> None:
    _require(name, value, "at least 0 and below 1", lambda x: (x >= 0) & (x < 1))


def _require(name: str, value: Any, says: str, holds: Callable[[np.ndarray], Any]) -> None:
    if numerics.any_traced(value):
        return
    numbers = np.asarray(None if isinstance(value, list | tuple) else value)  # no arithmetic is done with those
    if numbers.dtype.kind not in "fiu" or not np.all(np.isfinite(numbers) & holds(numbers)):
        raise InputError(f"{name} must be finite and {says}, got {shown(value)}")
