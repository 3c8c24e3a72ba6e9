"""Paths of parameters on a quotient by what leaves a network's function alone: geodesics from w along u.

Of da Silva, Dangel & Oore (2025, *Hide & Seek: Transformer symmetries obscure sharpness and Riemannian geometry finds
it*): parameters that a group carries into one another are one point of the quotient; under a metric that the group
leaves alone, its geodesics are those of parameters that start at right angles to the group's orbits (horizontal). Both
functions here are a `Move` of `perturbations`, with ‖u‖ the length of the geodesic.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.utils.errors import InputError

# Of the largest singular value, below which a product has not the rank of its inner side.
_RANK = 1e-6


def rescaled(params: Any, scales: Any, moved: Any) -> Any:
    """W ⊙ exp(c ⊙ u), the geodesic of the metric Σ (dw / w)²; weights of 0 stay.

    The group is that of factors of single weights: of a unit between ReLU layers, what leads to it times a, what leads
    from it over a. In log |w| it moves points by constants, so that the gradient of a function that it leaves alone is
    horizontal, and so is ascent along it.
    """
    return jax.tree.map(lambda w, c, u: w * jnp.exp(c * u), params, scales, moved)


def balanced(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors U Σ^½ [n, h] and Σ^½ Vᵀ [h, m] of the product U Σ Vᵀ of `first` [n, h] and `second` [h, m].

    They are GA and A⁻¹H for some A of GL(h), the same for all (G, H) of one product but for signs and equal singular
    values.

    Raises:
        InputError: a product whose rank is below h, where the quotient by GL(h) has no such metric.
    """
    width = first.shape[1]
    left, values, right = np.linalg.svd(first.astype(np.float64) @ second.astype(np.float64), full_matrices=False)
    if len(values) < width or values[width - 1] <= _RANK * values[0]:
        shape, rank = f"{first.shape[0]} x {second.shape[1]}", int((values > _RANK * values[0]).sum())
        raise InputError(
            f"the quotient by GL({width}) needs a product of rank {width}, got {rank} of {shape}; use no more hidden "
            "units than inputs and outputs"
        )
    root = np.sqrt(values[:width])
    return left[:, :width] * root[None], root[:, None] * right[:width]


def product_geodesic(first: Array, second: Array, along_first: Array, along_second: Array) -> tuple[Array, Array]:
    """The geodesic from balanced factors (G, H) along u, to second order in u, as its authors take it.

    The metric Tr (GᵀG)⁻¹ dGᵀdG + Tr dHᵀ(HHᵀ)⁻¹ dH is left alone by (G, H) → (GA, A⁻¹H). With GᵀG = HHᵀ = Σ diagonal,
    u is dG Σ^-½ and Σ^-½ dH; what it has along the orbit, (GA, −AH), is taken out, where Aᵀ solves
    Aᵀ_ij (σ_i² + σ_j²) = (Σ M Σ)_ij with M = Σ⁻¹ dGᵀ G − H dHᵀ Σ⁻¹. Then G(1) = G + Ġ + G̈ / 2 with
    G̈ = Ġ Σ⁻¹ (GᵀĠ + ĠᵀG) − G Σ⁻¹ ĠᵀĠ, and likewise of Hᵀ.
    """
    sigma = jnp.sum(jnp.square(first), axis=0)
    velocity, other = along_first * jnp.sqrt(sigma)[None], jnp.sqrt(sigma)[:, None] * along_second
    gap = (velocity.T @ first) / sigma[:, None] - (second @ other.T) / sigma[None]
    squares = jnp.square(sigma)
    vertical = (sigma[:, None] * gap * sigma[None] / (squares[:, None] + squares[None])).T
    velocity, other = velocity - first @ vertical, other + vertical @ second
    return _to_second_order(first, velocity, sigma), _to_second_order(second.T, other.T, sigma).T


def _to_second_order(point: Array, velocity: Array, sigma: Array) -> Array:
    mixed = point.T @ velocity
    bend = (velocity / sigma[None]) @ (mixed + mixed.T) - (point / sigma[None]) @ (velocity.T @ velocity)
    return point + velocity + bend / 2
