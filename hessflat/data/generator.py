"""Data on a curved sheet: the uniform cube pushed forward by a Lipschitz immersion, with targets that are known.

*On progressive sharpening*, theorem 4.4, is about such data: the immersion is what the paper calls a generator whose
weight matrices are non-degenerate and whose nonlinearities are smooth leaky ReLUs. As everything is a function of a
seed, samples can be drawn without end, in NumPy and in JAX alike.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# Slope of the smooth leaky ReLU where its argument is very negative; it is 1 where that is very positive.
LEAK = 0.2


class Generator(NamedTuple):
    """Latent z in [0, 1]^n -> inputs `push_forward` [d] and targets `targets` [k]."""

    first: np.ndarray  # [n, d]
    first_bias: np.ndarray  # [d]
    second: np.ndarray  # [d, d]
    second_bias: np.ndarray  # [d]
    waves: np.ndarray  # [n, k] 2π times frequencies
    phases: np.ndarray  # [k]

    @property
    def latent(self) -> int:
        """The dimension n of the cube."""
        return len(self.first)


def draw(settings: Mapping[str, Any]) -> Generator:
    """The generator of the settings `latent`, `dimension`, `num_outputs`, `frequency` and `seed` of the data source."""
    n, d, k = (settings[name] for name in ("latent", "dimension", "num_outputs"))
    random = np.random.default_rng([settings["seed"], 0])
    first, second = random.standard_normal((n, d)) / np.sqrt(n), random.standard_normal((d, d)) / np.sqrt(d)
    biases = 0.5 * random.standard_normal((2, d))
    directions = random.standard_normal((n, k))
    waves = 2 * np.pi * settings["frequency"] * directions / np.linalg.norm(directions, axis=0)
    return Generator(first, biases[0], second, biases[1], waves, 2 * np.pi * random.random(k))


def push_forward(generator: Generator, latent: Any, library: Any = np) -> Any:
    """F(z) of latent points [m, n]: inputs [m, d]; `library` is NumPy or `jax.numpy`.

    Injective with an injective derivative: both matrices have full rank and neither is wide, and the nonlinearity
    between them is strictly increasing.
    """
    centred = 2 * latent - 1
    hidden = _leaky(centred @ generator.first + generator.first_bias[None], library)
    return hidden @ generator.second + generator.second_bias[None]


def targets(generator: Generator, latent: Any, library: Any = np) -> Any:
    """Sines of latent points [m, n], each along a direction of its own: [m, k]."""
    return library.sin(latent @ generator.waves + generator.phases[None])


def _leaky(x: Any, library: Any) -> Any:
    """Smooth leaky ReLU, with slopes between `LEAK` and 1."""
    return LEAK * x + (1 - LEAK) * library.logaddexp(x, 0.0 * x)
