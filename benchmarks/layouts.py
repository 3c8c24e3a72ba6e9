"""Parameters between JAX's layouts (in, out; HWIO) and PyTorch's (out, in; OIHW); flat vectors go by sorted names."""

from collections.abc import Mapping

import numpy as np

_TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
_TO_JAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def to_torch(array: np.ndarray) -> np.ndarray:
    """One parameter."""
    return np.ascontiguousarray(array.transpose(_TO_TORCH[array.ndim]))


def images_to_torch(x: np.ndarray) -> np.ndarray:
    """[N, height, width, channels] -> [N, channels, height, width]; anything else stays."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def split(vector: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A flat vector [P] as parameters by name."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(vector, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def join(params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Parameters by name as a flat vector [P]."""
    return np.concatenate([np.asarray(params[name]).reshape(-1) for name in sorted(params)])


def flat_to_torch(vector: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """A flat vector [P] with each kernel's numbers in PyTorch's order."""
    return np.concatenate([to_torch(part).reshape(-1) for part in split(vector, shapes).values()])


def flat_from_torch(vector: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """The inverse of `flat_to_torch`."""
    turned = {name: tuple(shape[axis] for axis in _TO_TORCH[len(shape)]) for name, shape in shapes.items()}
    parts = split(vector, turned).values()
    return np.concatenate([part.transpose(_TO_JAX[part.ndim]).reshape(-1) for part in parts])
