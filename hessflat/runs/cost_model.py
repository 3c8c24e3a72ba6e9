"""What a run costs, from its shapes alone: the operations that XLA counts in a gradient, over a device's throughput.

For plans, and for the time left of runs that go on. Nothing is trained, and published data sets need not be there.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessflat import models
from hessflat.data import PUBLISHED, are_tokens
from hessflat.data.loading import split_size
from hessflat.measures import MEASURES
from hessflat.runs.jobs import Job, due_at, load_data
from hessflat.runs.schema import DataConfig, RunConfig
from hessflat.training.config import ModelConfig
from hessflat.training.optimisation import LOSSES, cross_entropy, make_targets
from hessflat.training.trainer import steps_of_run
from hessflat.utils.errors import SettingError
from hessflat.utils.progress import Reporter

_EXAMPLES = 8
# What a run takes, in seconds, that neither trains nor measures: its folder, its last checkpoint.
OVERHEAD = 0.5
# No machine trains more, and XLA cannot count the bytes of much more.
MOST_PARAMS = 10**12


class Throughput(NamedTuple):
    """Of a device."""

    flops_per_second: float  # in a gradient of a convolutional network
    seconds_per_step: float  # the least that a step takes, however small the network


# Of two cores. For shares of the time left, which depend on the ratio of the two alone.
TYPICAL = Throughput(4e10, 1e-4)


class DataShape(NamedTuple):
    """Of the training split: its size, the shape of an example, outputs, and what labels are."""

    num_examples: int
    shape: tuple[int, ...]
    num_classes: int
    classes: bool
    tokens: bool = False

    def arrays(self, number: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Inputs and labels of so many examples."""
        if self.tokens:
            rows = jax.ShapeDtypeStruct((number, *self.shape), jnp.int32)
            return rows, rows
        labels = jax.ShapeDtypeStruct((number,), jnp.int32)
        if not self.classes:
            labels = jax.ShapeDtypeStruct((number, self.num_classes), jnp.float32)
        return jax.ShapeDtypeStruct((number, *self.shape), jnp.float32), labels


class RunCost(NamedTuple):
    """Of one run."""

    num_params: int
    num_steps: int
    seconds_per_step: float
    seconds_per_product: float  # of curvature with a vector, over all measured examples
    products: dict[str, float]  # that each measure takes, or as long as that many
    due: dict[int, frozenset[str]]  # measures by step

    def training_seconds(self, steps: int) -> float:
        """Of so many optimiser steps."""
        return steps * self.seconds_per_step

    def measuring_seconds(self, names: Iterable[str]) -> float:
        """Of the measures of these names, once."""
        return self.seconds_per_product * sum(self.products[name] for name in names)

    def remaining_seconds(self, step: int) -> float:
        """Of what is left after a step and its measurement, if the run goes to its last step."""
        left = [names for due, names in self.due.items() if due > step]
        return self.training_seconds(self.num_steps - step) + sum(map(self.measuring_seconds, left))

    def total_seconds(self) -> float:
        """Of the whole run, if it goes to its last step, without compilation."""
        return OVERHEAD + self.remaining_seconds(0) + self.measuring_seconds(self.due.get(0, ()))


def run_cost(config: RunConfig, throughput: Throughput = TYPICAL) -> RunCost:
    """A product of curvature with a vector is counted as two gradients.

    Raises:
        InputError: data that are neither published nor there, more steps than are counted, or more measurements.
    """
    data = data_shape(config)
    num_params, flops = gradient_cost(config.model, config.train.loss, data)
    batch = min(config.train.batch_size or data.num_examples, data.num_examples)
    steps_per_epoch = -(-data.num_examples // batch)
    num_steps = steps_of_run(config, steps_per_epoch)
    measured = min(config.measure.examples or data.num_examples, data.num_examples)
    return RunCost(
        num_params,
        num_steps,
        (2 if config.optim.sam_radius else 1) * _seconds(throughput, flops * batch),
        _seconds(throughput, 2 * flops * measured),
        {name: measure.cost(config.measure, num_params) for name, measure in MEASURES.items()},
        due_at(config, steps_per_epoch, num_steps),
    )


def data_shape(config: RunConfig) -> DataShape:
    """Of data sets that have to be prepared, as published; of built-in sources, as made."""
    name = config.data.name
    if name not in PUBLISHED:
        return _built_in(config.data)
    published, block = PUBLISHED[name], config.data
    available = published.num_examples
    available -= split_size("validation", block.validation_size, block.validation_fraction, available)
    num_examples = split_size("train", block.train_size, block.train_fraction, available) or available
    return DataShape(num_examples, published.shape, published.num_classes, True)


@cache
def _built_in(config: DataConfig) -> DataShape:
    dataset = load_data(config)
    labels = dataset.train["labels"]
    classes = bool(np.issubdtype(labels.dtype, np.integer))
    shape = dataset.train["inputs"].shape[1:]
    return DataShape(len(labels), shape, dataset.num_classes, classes, are_tokens(dataset.train))


@cache
def gradient_cost(network: ModelConfig, loss_name: str, data: DataShape) -> tuple[int, float]:
    """P, and the floating-point operations of the gradient of one example's loss, both from shapes alone."""
    model = models.build(network.name, data.num_classes, **dict(network.settings))
    inputs, labels = data.arrays(_EXAMPLES)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), inputs)
    if models.num_params(params) > MOST_PARAMS:
        raise SettingError(
            f"config.model must have at most {MOST_PARAMS:,} parameters, got {models.num_params(params):,}; make it "
            "narrower"
        )

    def loss(params: Any, batch_stats: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        outputs, _ = model.apply(params, batch_stats, inputs, True)
        return jnp.mean(LOSSES[loss_name].function(outputs, make_targets(labels, data.num_classes)))

    lowered = jax.jit(jax.grad(loss)).lower(params, batch_stats, inputs, labels)
    return models.num_params(params), (lowered.cost_analysis() or {}).get("flops", 0.0) / _EXAMPLES


class Accounting(NamedTuple):
    """What runs that train together report as they go on, in seconds of the cost model.

    Whatever way a run ends, its parts add up to the cost of the whole.
    """

    reporter: Reporter
    jobs: Sequence[Job]
    costs: Sequence[RunCost]
    steps_per_epoch: int
    last: int

    def restored(self, step: int | None) -> None:
        """The runs go on from a checkpoint of `step`, or from their beginning where it is None."""
        if step is not None:
            self.reporter.skip(
                sum(cost.total_seconds() - OVERHEAD - cost.remaining_seconds(step) for cost in self.costs)
            )

    def trained(self, start: int, stop: int) -> None:
        """All runs took the steps `start <= step < stop`."""
        first, number = self.jobs[0], len(self.jobs)
        name = first.name if number == 1 else f"{first.config.experiment}: {number} runs together"
        self.reporter.advance(
            sum(cost.training_seconds(stop - start) for cost in self.costs), f"{name}: {self._position(stop)}"
        )

    def measuring(self, index: int, step: int) -> None:
        """A measurement of a run begins."""
        self.reporter.advance(0.0, f"{self.jobs[index].name}: {self._position(step)}, measuring")

    def measured(self, index: int, names: Collection[str]) -> None:
        """A run has been measured."""
        self.reporter.advance(self.costs[index].measuring_seconds(names), f"{self.jobs[index].name}: measured")

    def finished(self, index: int, step: int) -> None:
        """A run reached its end, at its last step or before."""
        self.reporter.advance(OVERHEAD, f"{self.jobs[index].name}: finished")
        self.reporter.skip(self.costs[index].remaining_seconds(step))

    def diverged(self, index: int, step: int, unmeasured: Collection[str]) -> None:
        """A run's parameters are not finite at `step`, where `unmeasured` was due."""
        cost = self.costs[index]
        self.reporter.note(f"{self.jobs[index].name}: diverged by step {step}; its measurements are kept")
        self.reporter.skip(OVERHEAD + cost.measuring_seconds(unmeasured) + cost.remaining_seconds(step))

    def _position(self, step: int) -> str:
        if self.steps_per_epoch == 1:
            return f"step {step} of {self.last}"
        return f"epoch {step // self.steps_per_epoch} of {-(-self.last // self.steps_per_epoch)}"


def device_throughput() -> Throughput:
    """Time a ResNet's gradient, and the steps of a loop that hardly computes, on the default device."""
    # As wide as a network for CIFAR, so that the throughput is that of its matrix products.
    data = DataShape(32, (32, 32, 3), 10, True)
    network = ModelConfig("resnet", (("depth", 10), ("width", 32)))
    _, flops = gradient_cost(network, "cross_entropy", data)
    model = models.build(network.name, 10, **dict(network.settings))
    inputs = jnp.ones((data.num_examples, *data.shape))
    targets = make_targets(jnp.zeros(data.num_examples, jnp.int32), 10)
    params, batch_stats = jax.jit(model.init)(jax.random.key(0), inputs[:1])
    gradient = jax.jit(
        jax.grad(lambda params: jnp.mean(cross_entropy(model.apply(params, batch_stats, inputs, True)[0], targets)))
    )
    weights = jnp.ones((100, 10))

    @jax.jit
    def steps(weights: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 1_000, lambda _, w: w - 1e-3 * jax.grad(lambda w: jnp.sum(jnp.tanh(w)))(w), weights)

    return Throughput(
        flops * data.num_examples / _median_seconds(gradient, params), _median_seconds(steps, weights) / 1_000
    )


def _seconds(throughput: Throughput, flops: float) -> float:
    return max(throughput.seconds_per_step, flops / throughput.flops_per_second)


def _median_seconds(function: Callable, *arguments: Any) -> float:
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
