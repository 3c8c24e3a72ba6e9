"""From stored values to network inputs: a scaling is `(x - shift) / scale`, fixed on the training split.

shift, scale = SCALINGS["standardised"](train_inputs, 255.0)
inputs = apply((shift, scale), test_inputs)
"""

from collections.abc import Callable, Iterator

import numpy as np

from hessflat.errors import InputError

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
    """Mean 0 and variance 1 in each channel (last axis) over the training split."""
    return _moments(train, tuple(range(train.ndim - 1)))


def pixelwise(train: np.ndarray, max_value: float | None) -> Affine:
    """Mean 0, variance 1 in each component over the training split; components that never vary become 0."""
    return _moments(train, (0,))


SCALINGS: dict[str, Callable[[np.ndarray, float | None], Affine]] = {
    "raw": raw,
    "unit": unit,
    "symmetric": symmetric,
    "standardised": standardised,
    "pixelwise": pixelwise,
}


def apply(affine: Affine, inputs: np.ndarray) -> np.ndarray:
    """`(inputs - shift) / scale` in float32, with one copy of the inputs and no temporary of their size."""
    shift, scale = affine
    scaled = inputs.astype(np.float32)
    scaled -= shift
    scaled /= scale
    return scaled


def _known(name: str, max_value: float | None) -> float:
    if max_value is None:
        raise InputError(
            f"data.scaling={name!r} needs pixels with a known maximum and these inputs are not pixels; "
            "use 'standardised', 'pixelwise' or 'raw'"
        )
    return max_value


def _moments(train: np.ndarray, axes: tuple[int, ...]) -> Affine:
    """Mean and standard deviation over `axes` (the first of them is examples), in float64 until the end.

    Blocks keep the float64 copies small. Where the deviation is 0 the scale is 1, so the result there is 0.
    """
    count = np.prod([train.shape[axis] for axis in axes])
    mean = sum(block.sum(axes) for block in _blocks(train)) / count
    variance = sum(np.square(block - mean).sum(axes) for block in _blocks(train)) / count
    # Rounding leaves a constant component with a variance of about 1e-32 times its square instead of 0.
    varies = variance > 1e-20 * np.square(mean)
    return mean.astype(np.float32), np.sqrt(np.where(varies, variance, 1.0)).astype(np.float32)


def _blocks(inputs: np.ndarray, size: int = 2000) -> Iterator[np.ndarray]:
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size].astype(np.float64)
