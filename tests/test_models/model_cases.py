"""A narrow network of every family, small images, and random parameters that hide no mistake behind zeros and ones."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessflat import models


class Case(NamedTuple):
    """A model by name, its settings, the shape of one input, and how many outputs it has."""

    name: str
    settings: dict
    shape: tuple[int, ...]
    outputs: int = 3

    @property
    def label(self):
        return "-".join([self.name, *(f"{key}={value}".replace(" ", "") for key, value in self.settings.items())])


CASES = [
    Case("softmax_regression", {}, (4, 4, 1)),
    Case("mlp", {"hidden": (5, 4), "activation": "relu"}, (2, 2, 1)),
    Case("mlp", {"hidden": (5, 4), "activation": "tanh"}, (4,)),
    Case("mlp", {"hidden": (5, 4), "activation": "gaussian"}, (4,)),
    Case("deep_linear", {"hidden": (4, 3)}, (5,)),
    Case("two_convolutions", {"width": 2, "kernel": 3, "hidden": 5}, (13, 12, 1)),
    Case("two_convolutions", {"width": 2, "kernel": 4, "hidden": 5, "padding": "same"}, (8, 8, 2)),
    Case("cnn9", {"width": 3}, (10, 11, 2)),
    Case("cnn9", {"width": 3, "last_padding": "same"}, (8, 8, 1)),
    Case("alexnet", {"width": 2, "head": (6, 5)}, (15, 16, 3)),
    Case("alexnet", {"width": 2, "head": (6, 5), "poolings": 2}, (8, 8, 1)),
    Case("vgg", {"depth": 11, "width": 2, "head": (6, 5), "poolings": 3}, (8, 9, 1)),
    Case("vgg", {"depth": 16, "width": 2, "head": (6, 5), "poolings": 2, "batch_norm": False}, (4, 4, 3)),
    Case("resnet", {"depth": 10, "width": 2}, (8, 8, 1)),
    Case("resnet", {"depth": 18, "width": 2, "batch_norm": False, "conv_bias": True}, (7, 8, 3)),
    Case("preresnet", {"depth": 11, "width": 2, "bn_momentum": 0.8}, (8, 7, 3)),
    Case("preresnet", {"depth": 20, "width": 2, "batch_norm": False, "conv_bias": True}, (5, 5, 1)),
    Case("wide_resnet", {"depth": 10, "width": 2, "widening": 2, "bn_epsilon": 1e-3}, (8, 8, 1)),
    Case("wide_resnet", {"depth": 10, "width": 2, "widening": 1, "batch_norm": False}, (6, 6, 3)),
    Case("coordinate_network", {"hidden": (6, 5, 4), "activation": "gaussian", "sigma": 0.7}, (1,), 1),
    Case("coordinate_network", {"hidden": (6, 5, 4), "activation": "relu"}, (2,), 2),
]
# Those that compile in seconds when differentiated twice: every family, and batch normalisation in each that has it.
SHALLOW = [case for case in CASES if case.settings.get("depth", 0) < 16]

# Compiling is what these tests spend their time on.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def randomised(case, number=6, seed=0):
    """The model, and parameters, running averages and inputs, drawn at random in NumPy's float64."""
    rng = np.random.default_rng(seed)
    model = models.build(case.name, case.outputs, **case.settings)
    inputs = rng.normal(size=(number, *case.shape))
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(inputs.shape, jnp.float32))

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if kind == "kernel" else 0.3
        return spread * rng.normal(size=leaf.shape)

    drawn = jax.tree_util.tree_map_with_path(draw, (params, batch_stats))
    return model, *drawn, inputs
