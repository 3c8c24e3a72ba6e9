"""Regularisers that change the examples of a batch, each example by draws of its own, on the device."""

import jax
import jax.numpy as jnp
from jax import Array

# Pixels of zeros on every side before the crop, as is the custom for CIFAR.
PADDING = 4


def augment(key: Array, images: Array, probability: Array | float) -> Array:
    """With `probability`, an image is padded by four pixels, cropped at random, and flipped with probability ½.

    *On progressive sharpening, flat minima and generalisation*, B.3. Images `[n, h, w, c]`. Padding is with zeros,
    which is the mean of standardised pixels.
    """
    number, height, width, _ = images.shape
    whether, rows, columns, flips = jax.random.split(key, 4)
    chosen = jax.random.bernoulli(whether, probability, (number,))
    rows, columns = (jax.random.randint(k, (number,), 0, 2 * PADDING + 1) for k in (rows, columns))
    flipped = jax.random.bernoulli(flips, 0.5, (number,)) & chosen
    # Not to augment is to crop the middle.
    rows, columns = (jnp.where(chosen, start, PADDING) for start in (rows, columns))
    sides = (PADDING, PADDING)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))

    def crop(image: Array, row: Array, column: Array, flip: Array) -> Array:
        cropped = jax.lax.dynamic_slice(image, (row, column, 0), (height, width, image.shape[-1]))
        return jnp.where(flip, cropped[:, ::-1], cropped)

    return jax.vmap(crop)(padded, rows, columns, flipped)


def mixup(key: Array, inputs: Array, targets: Array, beta: Array | float) -> tuple[Array, Array]:
    """(1 − θ)(x, y) + θ(x', y') with x' another example of the batch and θ ~ Beta(β, β), drawn for each example.

    *On progressive sharpening, flat minima and generalisation*, B.3. At β = 0 the law is Bernoulli(½): x or x' and
    nothing between; there θ is 0, so that a batch is what it was.
    """
    partner_key, theta_key = jax.random.split(key)
    partners = jax.random.permutation(partner_key, len(inputs))
    drawn = jax.random.beta(theta_key, jnp.where(beta > 0, beta, 1.0), jnp.where(beta > 0, beta, 1.0), (len(inputs),))
    theta = jnp.where(beta > 0, drawn, 0.0).astype(inputs.dtype)

    def mixed(x: Array) -> Array:
        weight = theta.reshape(-1, *(1,) * (x.ndim - 1))
        return x + weight * (x[partners] - x)

    return mixed(inputs), mixed(targets)
