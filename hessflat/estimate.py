"""What runs would cost on this device: operations counted by XLA, at the speed of a timed probe. Nothing is trained."""

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hessflat import models, work
from hessflat.config import canonical_json, chosen_settings
from hessflat.data.splits import count_of
from hessflat.jobs import due_at
from hessflat.prepared import load_data
from hessflat.schema import effective, from_plain
from hessflat.training.losses import LOSSES, cross_entropy, targets_of

# Training examples, shape and classes of published data sets, so that a plan needs none of them.
PUBLISHED = {
    "mnist": (60_000, (28, 28, 1), 10),
    "cifar10": (50_000, (32, 32, 3), 10),
    "cifar100": (50_000, (32, 32, 3), 100),
}
_EXAMPLES = 8


class Speed(NamedTuple):
    """What a probe found of a device."""

    flops_per_second: float  # in a gradient of a convolutional network
    seconds_per_step: float  # the least that a step takes, however small the network


class Estimate(NamedTuple):
    """Of one run that goes to its last step."""

    num_params: int
    num_steps: int
    seconds: float


class Data(NamedTuple):
    """Of the training split: its size, the shape of an example, outputs, and whether labels are classes."""

    num_examples: int
    shape: tuple[int, ...]
    num_classes: int
    classes: bool


def estimate(config: ConfigDict, speed: Speed) -> Estimate:
    """Seconds of training and of measuring, a product of curvature with a vector counted as two gradients."""
    data = data_of(config)
    block = {"model": effective(config)["model"], "train": {"loss": config.train.loss}}
    num_params, flops = _gradient(canonical_json(block), data)
    batch = min(config.train.batch_size or data.num_examples, data.num_examples)
    steps_per_epoch = -(-data.num_examples // batch)
    num_steps = config.train.steps or config.train.epochs * steps_per_epoch
    passes = 2 if config.optim.sam_radius else 1
    training = num_steps * passes * _seconds(speed, flops * batch)
    measured = min(config.measure.examples or data.num_examples, data.num_examples)
    products = sum(
        work.products(config, names, num_params) for names in due_at(config, steps_per_epoch, num_steps).values()
    )
    return Estimate(num_params, num_steps, training + products * _seconds(speed, 2 * flops * measured))


def data_of(config: ConfigDict) -> Data:
    """Of data sets that have to be prepared, as published; of built-in sources, as made."""
    name = config.data.name
    if name not in PUBLISHED:
        return _made(canonical_json({"data": effective(config)["data"]}))
    available, shape, num_classes = PUBLISHED[name]
    available -= count_of("validation_size", config.data.validation_size, available)
    return Data(count_of("train_size", config.data.train_size, available) or available, shape, num_classes, True)


@cache
def _made(block: str) -> Data:
    dataset = load_data(from_plain(json.loads(block)))
    labels = dataset.train["labels"]
    classes = bool(np.issubdtype(labels.dtype, np.integer))
    return Data(len(labels), dataset.train["inputs"].shape[1:], dataset.num_classes, classes)


@cache
def _gradient(block: str, data: Data) -> tuple[int, float]:
    """P, and the floating-point operations of the gradient of one example's loss, both from shapes alone."""
    config = from_plain(json.loads(block))
    model = models.build(config.model.name, data.num_classes, **chosen_settings(config.model))
    inputs = jax.ShapeDtypeStruct((_EXAMPLES, *data.shape), jnp.float32)
    labels = jax.ShapeDtypeStruct(
        (_EXAMPLES,) if data.classes else (_EXAMPLES, data.num_classes), jnp.int32 if data.classes else jnp.float32
    )
    params, statistics = jax.eval_shape(model.init, jax.random.key(0), inputs)

    def loss(params: Any, statistics: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        outputs, _ = model.apply(params, statistics, inputs, True)
        return jnp.mean(LOSSES[config.train.loss](outputs, targets_of(labels, data.num_classes)))

    lowered = jax.jit(jax.grad(loss)).lower(params, statistics, inputs, labels)
    return models.num_params(params), (lowered.cost_analysis() or {}).get("flops", 0.0) / _EXAMPLES


def probe() -> Speed:
    """Time a ResNet's gradient, and the steps of a loop that hardly computes."""
    # As wide as a network for CIFAR, so that the speed is that of its matrix products.
    data = Data(32, (32, 32, 3), 10, True)
    block = canonical_json({"model": {"name": "resnet", "resnet": {"depth": 10, "width": 32}}})
    _, flops = _gradient(block, data)
    config = from_plain(json.loads(block))
    model = models.build("resnet", 10, **chosen_settings(config.model))
    inputs = jnp.ones((data.num_examples, *data.shape))
    targets = targets_of(jnp.zeros(data.num_examples, jnp.int32), 10)
    params, statistics = jax.jit(model.init)(jax.random.key(0), inputs[:1])
    gradient = jax.jit(
        jax.grad(lambda params: jnp.mean(cross_entropy(model.apply(params, statistics, inputs, True)[0], targets)))
    )
    weights = jnp.ones((100, 10))

    @jax.jit
    def steps(weights: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 1_000, lambda _, w: w - 1e-3 * jax.grad(lambda w: jnp.sum(jnp.tanh(w)))(w), weights)

    return Speed(flops * data.num_examples / _median_seconds(gradient, params), _median_seconds(steps, weights) / 1_000)


def _median_seconds(function: Callable, *arguments: Any) -> float:
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def _seconds(speed: Speed, flops: float) -> float:
    return max(speed.seconds_per_step, flops / speed.flops_per_second)
