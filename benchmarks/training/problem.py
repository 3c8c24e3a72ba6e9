"""Images of noise with labels at random, and the initial weights of a network, made once for all contenders.

    python -m benchmarks.training.problem FILE NETWORK SCALE

What the examples are does not change how long a step takes.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.training.workloads import BATCH_SIZES, NETWORKS, NUM_CLASSES


class Problem(NamedTuple):
    """Images `[N, h, w, c]`, labels `[N]`; weights and batch-norm statistics by path, such as `Conv_0/kernel`."""

    x: np.ndarray
    y: np.ndarray
    params: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def load(path: Path) -> Problem:
    with np.load(path) as file:
        arrays = dict(file)

    def below(folder: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(folder): array for name, array in arrays.items() if name.startswith(folder)}

    return Problem(arrays["x"], arrays["y"], below("params/"), below("statistics/"))


def main(arguments: list[str]) -> None:
    import jax
    from flax.traverse_util import flatten_dict

    from hessflat import models

    path, name, scale = arguments
    network, rng = NETWORKS[name], np.random.default_rng(0)
    number = network.epoch(scale) * BATCH_SIZES[scale]
    x = rng.standard_normal((number, *network.shape), np.float32)
    y = rng.integers(NUM_CLASSES, size=number, dtype=np.int32)
    model = models.build(network.model, NUM_CLASSES, **network.settings_at(scale))
    params, statistics = jax.jit(model.init)(jax.random.key(0), x[:1])
    trees: dict[str, Any] = {"params": params, "statistics": statistics}
    np.savez(path, x=x, y=y, **flatten_dict(trees, sep="/"))


if __name__ == "__main__":
    main(sys.argv[1:])
