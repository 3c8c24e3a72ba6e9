"""Networks with weights and data, made once in NumPy and the same for every contender.

    python -m benchmarks.problems FOLDER SCALE NAME...

Images are noisy, shifted copies of one smooth pattern for each class, and some labels are wrong. Weights come from a
few steps of SGD, so that the curvature has outliers and a bulk as that of trained networks has.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.networks import NETWORKS, ShapeLayers

WRONG_LABELS = 0.1
LEARNING_RATE, MOMENTUM = 0.02, 0.9


@dataclass(frozen=True)
class Problem:
    """One network and its data."""

    network: str
    options: dict[str, Any]
    input_shape: tuple[int, ...]  # (features,), (height, width, channels), or (tokens,) of a transformer
    num_classes: int
    num_examples: int
    sgd_steps: int
    sgd_batch: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name, sorted; kernels are [in, out] or [height, width, in, out]."""
        if self.network == "transformer":
            from benchmarks import language

            return dict(sorted(language.shapes(self.options, self.input_shape[0]).items()))
        return dict(sorted(self._traced.shapes.items()))

    @property
    def norms(self) -> dict[str, int]:
        """Batch norms and their channels."""
        return {} if self.network == "transformer" else self._traced.norms

    @property
    def size(self) -> int:
        """P."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def layers(self) -> dict[str, list[str]]:
        """The parameters of each layer."""
        found: dict[str, list[str]] = {}
        for name in self.shapes:
            found.setdefault(name.rpartition("_")[0], []).append(name)
        return found

    @property
    def _traced(self) -> ShapeLayers:
        layers = ShapeLayers()
        NETWORKS[self.network](layers, self.input_shape, **self.options)
        return layers


class Arrays(NamedTuple):
    """What a problem holds, float32 in JAX's layouts."""

    x: np.ndarray  # [N, features] or [N, height, width, channels]; tokens [N, T] int32
    y: np.ndarray  # [N] int32; of tokens [N, T], −1 where they are padding
    params: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]  # of batch norm: mean and variance

    def take(self, count: int) -> "Arrays":
        """The first `count` examples."""
        return self._replace(x=self.x[:count], y=self.y[:count])


FULL = {
    "dense": Problem("mlp", {"sizes": (100, 10)}, (784,), 10, 10_000, 200, 100),
    "conv": Problem(
        "vgg", {"channels": (16, 32, 64), "hidden": 400, "num_classes": 10}, (32, 32, 3), 10, 1_000, 40, 64
    ),
    "residual": Problem(
        "resnet", {"widths": (64, 128, 256, 512), "blocks": 2, "num_classes": 10}, (32, 32, 3), 10, 128, 8, 32
    ),
    "small": Problem("mlp", {"sizes": (30, 30, 10)}, (100,), 10, 1_000, 200, 100),
    "deep": Problem("mlp", {"sizes": (100, 100, 100, 10)}, (784,), 10, 5_000, 200, 100),
    "million": Problem("mlp", {"sizes": (1258, 10)}, (784,), 10, 10_000, 30, 100),
    "digits": Problem("mlp", {"sizes": (32, 32, 10)}, (64,), 10, 500, 0, 100),
    "sentences": Problem(
        "transformer", {"vocabulary": 32, "layers": 2, "width": 16, "heads": 2, "max_length": 16}, (16,), 32, 256, 0, 64
    ),
    "language": Problem(
        "transformer",
        {"vocabulary": 256, "layers": 4, "width": 64, "heads": 4, "max_length": 64},
        (64,),
        256,
        256,
        100,
        32,
    ),
    "wide": Problem(
        "wide_resnet", {"widths": (160, 320, 640), "blocks": 4, "num_classes": 10}, (32, 32, 3), 10, 128, 8, 32
    ),
}
SMOKE = {
    "dense": Problem("mlp", {"sizes": (8, 4)}, (20,), 4, 60, 50, 20),
    "conv": Problem("vgg", {"channels": (4, 8), "hidden": 8, "num_classes": 4}, (8, 8, 3), 4, 24, 20, 8),
    "residual": Problem("resnet", {"widths": (4, 8), "blocks": 1, "num_classes": 4}, (8, 8, 3), 4, 16, 10, 8),
    "small": Problem("mlp", {"sizes": (5, 5, 3)}, (10,), 3, 40, 50, 20),
    "deep": Problem("mlp", {"sizes": (8, 8, 4)}, (20,), 4, 60, 50, 20),
    "million": Problem("mlp", {"sizes": (16, 4)}, (20,), 4, 60, 10, 20),
    "digits": Problem("mlp", {"sizes": (5, 5, 3)}, (10,), 3, 40, 0, 20),
    "sentences": Problem(
        "transformer", {"vocabulary": 8, "layers": 1, "width": 4, "heads": 2, "max_length": 4}, (4,), 8, 24, 0, 8
    ),
    "language": Problem(
        "transformer", {"vocabulary": 8, "layers": 1, "width": 4, "heads": 2, "max_length": 4}, (4,), 8, 24, 10, 8
    ),
    "wide": Problem("wide_resnet", {"widths": (8, 16), "blocks": 1, "num_classes": 4}, (8, 8, 3), 4, 16, 10, 8),
}
SCALES = {"full": FULL, "smoke": SMOKE}


def main(arguments: list[str]) -> None:
    folder, scale, *names = arguments
    for name in names:
        save(Path(folder) / f"{name}.npz", make(SCALES[scale][name]))


def make(problem: Problem, seed: int = 0) -> Arrays:
    """Data, and weights after a few steps."""
    rng = np.random.default_rng(seed)
    x, y = _examples(rng, problem)
    params, statistics = _train(rng, problem, x, y, _initial(rng, problem))
    return Arrays(x, y, params, statistics)


def save(path: Path, arrays: Arrays) -> None:
    named = {f"params/{k}": v for k, v in arrays.params.items()}
    named |= {f"statistics/{k}": v for k, v in arrays.statistics.items()}
    np.savez(path, x=arrays.x, y=arrays.y, **named)  # type: ignore[arg-type]


def load(path: Path) -> Arrays:
    stored = np.load(path)

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}

    return Arrays(stored["x"], stored["y"], under("params/"), under("statistics/"))


def _examples(rng: np.random.Generator, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, ...] of mean 0 and variance about 1, and labels [N]; or sequences of tokens."""
    if problem.network == "transformer":
        from benchmarks import language

        return language.examples(rng, problem.num_classes, problem.input_shape[0], problem.num_examples)
    shape, count = problem.input_shape, problem.num_examples
    labels = rng.integers(problem.num_classes, size=count)
    axes = tuple(range(1, 1 + min(len(shape), 2)))
    patterns = rng.normal(size=(problem.num_classes, *shape))
    for axis in axes:
        for _ in range(2):
            patterns = np.sum([np.roll(patterns, shift, axis) for shift in range(-2, 3)], axis=0)
    patterns /= patterns.std(axis=tuple(range(1, patterns.ndim)), keepdims=True)
    x = patterns[labels]
    for axis in axes:
        shifts = rng.integers(-2, 3, size=count)
        x = np.stack([np.roll(image, shift, axis - 1) for image, shift in zip(x, shifts, strict=True)])
    x = 0.6 * x + 0.8 * rng.normal(size=x.shape)
    wrong = rng.random(count) < WRONG_LABELS
    labels[wrong] = rng.integers(problem.num_classes, size=int(wrong.sum()))
    return x.astype(np.float32), labels.astype(np.int32)


def _initial(rng: np.random.Generator, problem: Problem) -> dict[str, np.ndarray]:
    """He et al. (2015); batch norm starts as the identity. A transformer has those of its own."""
    if problem.network == "transformer":
        from benchmarks import language

        return language.initial(problem.options, problem.input_shape[0], int(rng.integers(2**31)))
    params = {}
    for name, shape in problem.shapes.items():
        if name.endswith("_kernel"):
            params[name] = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            params[name] = np.full(shape, float(name.endswith("_scale")))
    return {name: value.astype(np.float32) for name, value in params.items()}


def _train(
    rng: np.random.Generator, problem: Problem, x: np.ndarray, y: np.ndarray, params: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    import jax

    from benchmarks import language
    from benchmarks.jax_layers import JaxLayers, cross_entropy

    def loss(params: Any, x: Any, y: Any) -> Any:
        if problem.network == "transformer":
            return cross_entropy(language.logits(params, x, problem.options), y)
        return cross_entropy(NETWORKS[problem.network](JaxLayers(params, None), x, **problem.options), y)

    @jax.jit
    def step(params: Any, velocity: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(loss)(params, x, y)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        return jax.tree.map(lambda p, v: p - LEARNING_RATE * v, params, velocity), velocity

    @jax.jit
    def statistics_of(params: Any, x: Any) -> Any:
        layers = JaxLayers(params, None)
        NETWORKS[problem.network](layers, x, **problem.options)
        return layers.noted

    trained: Any = params
    velocity = jax.tree.map(np.zeros_like, params)
    for _ in range(problem.sgd_steps):
        chosen = rng.choice(len(x), problem.sgd_batch, replace=False)
        trained, velocity = step(trained, velocity, x[chosen], y[chosen])
    statistics = statistics_of(trained, x[:128]) if problem.norms else {}
    return jax.tree.map(np.asarray, trained), jax.tree.map(np.asarray, statistics)


if __name__ == "__main__":
    main(sys.argv[1:])
