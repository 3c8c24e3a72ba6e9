"""The largest curvature at which an optimiser is stable on a quadratic, its edge of stability.

Each takes the learning rate η, a number or an array, and gives a number that λ_max of the matrix in the optimiser's own
coordinates is compared with: of the Hessian, or, where there is a preconditioner P, of `preconditioned(H, P)`.
"""

from typing import Any

import jax.numpy as jnp


def gradient_descent(learning_rate: Any) -> Any:
    """2 / η, of w ← w − η g; and of w ← w − η P⁻¹ g, as RMSProp has it, for P^-1/2 H P^-1/2.

    Cohen et al. (2021, *Gradient descent on neural networks typically occurs at the edge of stability*, section 2).

    Args:
        learning_rate: η, a number or an array.
    """
    return 2 / learning_rate


def heavy_ball(learning_rate: Any, momentum: Any) -> Any:
    """(2 + 2β) / η, of z ← β z + g, w ← w − η z, which is `optax.sgd(η, β)`; Cohen et al. (2021), equation 1.

    Args:
        learning_rate: η, a number or an array.
        momentum: β, a number or an array.

    >>> round(heavy_ball(0.1, 0.9), 6)
    38.0
    """
    return (2 + 2 * momentum) / learning_rate


def nesterov(learning_rate: Any, momentum: Any) -> Any:
    """(2 + 2β) / ((1 + 2β) η), of z ← β z + g, w ← w − η (g + β z); Cohen et al. (2021), equation 1.

    Args:
        learning_rate: η, a number or an array.
        momentum: β, a number or an array.
    """
    return (2 + 2 * momentum) / ((1 + 2 * momentum) * learning_rate)


def adam(learning_rate: Any, b1: Any) -> Any:
    """(2 + 2β1) / ((1 − β1) η), of m ← β1 m + (1 − β1) g, w ← w − η P⁻¹ m, for P^-1/2 H P^-1/2 with P held fixed.

    Cohen et al. (2022, *Adaptive gradient methods at the edge of stability*, section 2); 38 / η at β1 = 0.9.

    Args:
        learning_rate: η, a number or an array.
        b1: β1, a number or an array.
    """
    return (2 + 2 * b1) / ((1 - b1) * learning_rate)


def sam(learning_rate: Any, radius: Any, gradient_norm: Any) -> Any:
    """‖g‖ / (2ρ) (√(1 + 8ρ / (η ‖g‖)) − 1), of w ← w − η ∇L(w + ρ g / ‖g‖).

    Long and Bartlett (2024, *Sharpness-aware minimization and the edge of stability*, section 3), to first order in ρ.
    At ρ = 0 it is 2 / η, and as ‖g‖ falls it goes to 0. It is computed without the difference, which would cancel.

    Args:
        learning_rate: η, a number or an array.
        radius: ρ, in the unit of the parameters.
        gradient_norm: ‖g‖, in the unit of the loss over that of the parameters.
    """
    ratio = 8 * radius / (learning_rate * gradient_norm)
    return 4 / learning_rate / (jnp.sqrt(1 + ratio) + 1)
