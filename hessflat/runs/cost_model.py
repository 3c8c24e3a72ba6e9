"""What a run costs, from its shapes alone: the operations that XLA counts in a gradient, at the speed of a device.

For plans, and for sharing out the time left. Nothing is trained, and published data sets need not be there.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessflat import models
from hessflat.data.splits import count_of
from hessflat.runs.compiled import load_data
from hessflat.runs.jobs import due_at
from hessflat.runs.schema import RunConfig
from hessflat.training.config import ModelConfig
from hessflat.training.losses import LOSSES, make_targets

# Training examples, shape and classes of published data sets, so that a plan needs none of them.
PUBLISHED = {
    "mnist": (60_000, (28, 28, 1), 10),
    "cifar10": (50_000, (32, 32, 3), 10),
    "cifar100": (50_000, (32, 32, 3), 100),
}
_EXAMPLES = 8
# What a run takes, in seconds, that neither trains nor measures: its folder, its last checkpoint.
AROUND = 0.5


class Speed(NamedTuple):
    """Of a device."""

    flops_per_second: float  # in a gradient of a convolutional network
    seconds_per_step: float  # the least that a step takes, however small the network


# Of two cores. For shares of the time left, which depend on the ratio of the two alone.
TYPICAL = Speed(4e10, 1e-4)


class Data(NamedTuple):
    """Of the training split: its size, the shape of an example, outputs, and whether labels are classes."""

    num_examples: int
    shape: tuple[int, ...]
    num_classes: int
    classes: bool


class Cost(NamedTuple):
    """Of one run."""

    num_params: int
    num_steps: int
    step: float  # seconds
    product: float  # seconds of a product of curvature with a vector, over all measured examples
    measures: dict[str, float]  # products that each measure takes, or as long as that many
    due: dict[int, frozenset[str]]  # measures by step

    def of_training(self, steps: int) -> float:
        """Seconds."""
        return steps * self.step

    def of_measuring(self, names: Iterable[str]) -> float:
        """Seconds."""
        return self.product * sum(self.measures[name] for name in names)

    def of_rest(self, step: int) -> float:
        """Seconds of what is left after a step and its measurement, if the run goes to its last step."""
        left = [names for due, names in self.due.items() if due > step]
        return self.of_training(self.num_steps - step) + sum(map(self.of_measuring, left))

    def of_run(self) -> float:
        """Seconds of the whole run, if it goes to its last step, without compilation."""
        return AROUND + self.of_rest(0) + self.of_measuring(self.due.get(0, ()))


def cost_of(config: RunConfig, speed: Speed = TYPICAL) -> Cost:
    """A product of curvature with a vector is counted as two gradients.

    Raises:
        InputError: data that are neither published nor there.
    """
    data = data_of(config)
    num_params, flops = gradient(config.model, config.train.loss, data)
    batch = min(config.train.batch_size or data.num_examples, data.num_examples)
    steps_per_epoch = -(-data.num_examples // batch)
    num_steps = config.train.steps or config.train.epochs * steps_per_epoch
    measured = min(config.measure.examples or data.num_examples, data.num_examples)
    return Cost(
        num_params,
        num_steps,
        (2 if config.optim.sam_radius else 1) * _seconds(speed, flops * batch),
        _seconds(speed, 2 * flops * measured),
        _products(config, num_params),
        due_at(config, steps_per_epoch, num_steps),
    )


def data_of(config: RunConfig) -> Data:
    """Of data sets that have to be prepared, as published; of built-in sources, as made."""
    name = config.data.name
    if name not in PUBLISHED:
        return _made(config.data)
    available, shape, num_classes = PUBLISHED[name]
    available -= count_of("validation_size", config.data.validation_size, available)
    return Data(count_of("train_size", config.data.train_size, available) or available, shape, num_classes, True)


@cache
def _made(config: Any) -> Data:
    dataset = load_data(config)
    labels = dataset.train["labels"]
    classes = bool(np.issubdtype(labels.dtype, np.integer))
    return Data(len(labels), dataset.train["inputs"].shape[1:], dataset.num_classes, classes)


@cache
def gradient(network: ModelConfig, loss_name: str, data: Data) -> tuple[int, float]:
    """P, and the floating-point operations of the gradient of one example's loss, both from shapes alone."""
    model = models.build(network.name, data.num_classes, **dict(network.settings))
    inputs = jax.ShapeDtypeStruct((_EXAMPLES, *data.shape), jnp.float32)
    labels = jax.ShapeDtypeStruct(
        (_EXAMPLES,) if data.classes else (_EXAMPLES, data.num_classes), jnp.int32 if data.classes else jnp.float32
    )
    params, statistics = jax.eval_shape(model.init, jax.random.key(0), inputs)

    def loss(params: Any, statistics: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        outputs, _ = model.apply(params, statistics, inputs, True)
        return jnp.mean(LOSSES[loss_name].function(outputs, make_targets(labels, data.num_classes)))

    lowered = jax.jit(jax.grad(loss)).lower(params, statistics, inputs, labels)
    return models.num_params(params), (lowered.cost_analysis() or {}).get("flops", 0.0) / _EXAMPLES


def _products(config: RunConfig, num_params: int) -> dict[str, float]:
    """Of curvature with a vector, over all measured examples, that each measure takes, or as long as them."""
    settings, operators = config.measure, len(config.measure.operators)
    return {
        "performance": 1,
        "outputs": 1,
        "jacobian": 2,
        "features": 2,
        "fit": 1,
        # A vector-Jacobian product for each class, in float64, between all layers and for the rows of the spectra.
        "layers": 60,
        "sharpness": 10 * operators,
        "scaled_sharpness": 40,
        "spectra": (settings.probes * settings.lanczos_steps + settings.trace_probes) * operators,
        # As many products as parameters, and the eigenvalues of a matrix of that size.
        "exact": 2 * num_params * len(settings.exact_operators),
        # Several ways, of which those in float64 take twice as long.
        "sensitivity": (6 + len(settings.statistics_batches)) * (settings.trace_probes + 40),
        "extremes": settings.extremes_products * operators,
        # In float64, for two ways of scaling.
        "loss_limit": 4 * len(settings.scales) * (settings.trace_probes + 20),
        # In float64, a product for each column, for the six ordered pairs of three layers.
        "reparameterised": 12 * len(settings.scales) * num_params,
        # Rows of Jacobians, and two norms by iteration, in float64.
        "batch_norm": 4 * len(settings.sample_sizes) * (10 * settings.blocks + 60),
        # Jacobians and their derivatives at many more points than there are examples.
        "lipschitz": 2_000,
        "line": settings.line_points,
    }


def _seconds(speed: Speed, flops: float) -> float:
    return max(speed.seconds_per_step, flops / speed.flops_per_second)
