"""Sharpness-aware minimisation (Foret et al. 2021): the gradient is taken where the loss rises fastest nearby."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


def ascended(params: Any, gradient: Any, radius: Array | float) -> Any:
    """W + ρ g / ‖g‖, ρ = `radius`; w itself where the gradient is zero, or ρ is."""
    norm = optax.tree.norm(gradient)
    scale = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda w, g: w + (scale * g).astype(w.dtype), params, gradient)
