"""From stored values to network inputs: a scaling is `(x - shift) / scale`, fixed on training examples.

shift, scale = SCALINGS["standardised"](train_inputs, 255.0)
inputs = apply((shift, scale), test_inputs)
"""

from collections.abc import Callable

import numpy as np

from hessflat.utils.errors import InputError

BLOCK = 256
Affine = tuple[np.ndarray | np.float32, np.ndarray | np.float32]


def raw(train: np.ndarray, max_value: float | None) -> Affine:
    """As stored, in float32."""
    return np.float32(0), np.float32(1)


def unit(train: np.ndarray, max_value: float | None) -> Affine:
    """Pixels to [0, 1]."""
    return np.float32(0), np.float32(_known("unit", max_value))


def symmetric(train: np.ndarray, max_value: float | None) -> Affine:
    """Pixels to [-1, 1]."""
    half = np.float32(_known("symmetric", max_value) / 2)
    return half, half


def standardised(train: np.ndarray, max_value: float | None) -> Affine:
    """Mean 0 and variance 1 in each channel (last axis) over the training examples."""
    return _moments(train, tuple(range(train.ndim - 1)))


def pixelwise(train: np.ndarray, max_value: float | None) -> Affine:
    """Mean 0, variance 1 in each component over the training examples; components that never vary become 0."""
    return _moments(train, (0,))


def overall(train: np.ndarray, max_value: float | None) -> Affine:
    """Mean 0, variance 1 over all components of the training examples together."""
    return _moments(train.reshape(len(train), -1, 1), (0, 1))


SCALINGS: dict[str, Callable[[np.ndarray, float | None], Affine]] = {
    "raw": raw,
    "unit": unit,
    "symmetric": symmetric,
    "standardised": standardised,
    "pixelwise": pixelwise,
    "overall": overall,
}


def apply(affine: Affine, inputs: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """`(inputs - shift) / scale * factor` in float32, with one copy of the inputs and no temporary of their size."""
    # In the shape of an example, because NumPy is slow at repeating something as short as three channels.
    shift, scale = (np.broadcast_to(part, inputs.shape[1:]).copy() for part in affine)
    scaled = inputs.astype(np.float32)
    scaled -= shift
    scaled /= scale
    if factor != 1:
        scaled *= np.float32(factor)
    return scaled


def _known(name: str, max_value: float | None) -> float:
    if max_value is None:
        raise InputError(
            f"data.scaling={name!r} needs pixels with a known maximum and these inputs are not pixels; "
            "use 'standardised', 'pixelwise' or 'raw'"
        )
    return max_value


def _moments(train: np.ndarray, axes: tuple[int, ...]) -> Affine:
    """Mean and standard deviation over `axes`, of which the first is examples; 1 where the deviation is 0.

    Sums are taken in float64, of differences from the first example: a component that never varies then has a
    deviation of exactly 0. Blocks keep the float64 copies small.
    """
    origin = train[0].astype(np.float64)
    total, total_of_squares = np.zeros_like(origin), np.zeros_like(origin)
    for start in range(0, len(train), BLOCK):
        difference = train[start : start + BLOCK] - origin
        total += difference.sum(0)
        total_of_squares += np.square(difference, out=difference).sum(0)
    mean = total / len(train)
    variance = np.maximum(total_of_squares / len(train) - np.square(mean), 0.0)
    # Over pixels: the mean variance of a pixel plus the variance of the pixels' means.
    pixels = tuple(axis - 1 for axis in axes[1:])
    mean += origin
    variance = variance.mean(pixels) + mean.var(pixels)
    return mean.mean(pixels).astype(np.float32), np.sqrt(np.where(variance > 0, variance, 1.0)).astype(np.float32)
