"""Training runs as pure functions of (hyper-parameters, data), compiled once for all runs that share shapes.

The settings that differ between the runs of a sweep are traced numbers, `Hyperparams`. All others are a `Setup`, which
is compiled in. The module makes the batches of `train_step`, the loop over steps, and sweeps of runs side by side.
It is long because a batch, a step and a run are read in one place.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from hessflat import models
from hessflat.training.augmentation import augment, mixup
from hessflat.training.config import TrainingConfig
from hessflat.training.optimisation import LOSSES, OPTIMISERS, SCHEDULES, WEIGHT_DECAY_MASKS, make_targets
from hessflat.training.step import (
    Batch,
    Gradient,
    Hyperparams,
    Step,
    TrainState,
    make_gradient,
    train_step,
    update_batch_stats,
)
from hessflat.utils import hardware
from hessflat.utils.convolution import Loop, choose_loop
from hessflat.utils.errors import InputError, SettingError

Split = Mapping[str, jax.Array]
TrainSteps = Callable[[TrainState, Hyperparams, Split, int, int], TrainState]
AnyConfig = TypeVar("AnyConfig", bound=TrainingConfig)


class Setup(NamedTuple):
    """What the runs of one trainer share."""

    model: models.Model
    num_classes: int
    input_shape: tuple[int, ...]  # of one example
    input_dtype: Any
    num_examples: int
    batch_size: int
    last_batch_size: int  # of an epoch
    steps_per_epoch: int
    num_steps: int
    gradient: Gradient
    optimiser: Callable[[Hyperparams], optax.GradientTransformation]
    step: Step
    average_from: int  # the step after which iterates are averaged; 0: never
    compiled_out: tuple[str, ...]  # regularisers that are 0 in every run
    mesh: Mesh | None
    fsdp: bool  # whether the state is spread over the devices too


class Trainer(NamedTuple):
    """Pure functions of training runs that share a `Setup`.

    `init(hyperparams)` gives the state before the first step; `train_steps(state, hyperparams, train, start, stop)`
    takes the steps `start <= step < stop`; `train_steps_together` does so for stacked states and hyper-parameters.
    `eval_params(state, train)` gives the parameters and batch-norm statistics with which a state is evaluated.
    """

    model: models.Model
    num_classes: int
    num_params: int
    steps_per_epoch: int
    num_steps: int
    loop: Loop
    init: Callable[[Hyperparams], TrainState]
    train_steps: TrainSteps
    train_steps_together: TrainSteps
    eval_params: Callable[[TrainState, Split], tuple[Any, Any]]


def make_hyperparams(config: TrainingConfig) -> Hyperparams:
    """The traced settings of a configuration: runs that differ in these alone share one trainer."""
    return Hyperparams(
        learning_rate=jnp.float32(config.optim.lr),
        l2=jnp.float32(config.optim.l2),
        label_smoothing=jnp.float32(config.train.label_smoothing),
        seed=jnp.uint32(config.seed),
        sam_radius=jnp.float32(config.optim.sam_radius),
        mixup=jnp.float32(config.train.mixup),
        augment=jnp.float32(config.train.augment),
    )


def static_config(config: AnyConfig) -> AnyConfig:
    """The same configuration for all runs that share a trainer: traced settings at 0, the learning rate at 1.

    SAM, mixup and augmentation cost time, so that a trainer with one of them is another one: there it is at 1.
    """
    optim, train = config.optim, config.train
    return dataclasses.replace(
        config,
        seed=0,
        optim=dataclasses.replace(optim, lr=1.0, l2=0.0, sam_radius=float(optim.sam_radius > 0)),
        train=dataclasses.replace(
            train, label_smoothing=0.0, mixup=float(train.mixup > 0), augment=float(train.augment > 0)
        ),
    )


def make_trainer(
    config: TrainingConfig, num_classes: int, train: Split, *, step: Step = train_step, loop: Loop | None = None
) -> Trainer:
    """The trainer of every run whose `static_config` is that of `config`.

    Args:
        config: a validated configuration.
        num_classes: C, the number of outputs.
        train: the training inputs `[N, ...]` and labels, or their shapes.
        step: one update; see `train_step`.
        loop: how steps follow one another; None takes what is fast on this device.
    """
    shapes = jax.eval_shape(dict, train)
    setup = make_setup(config, num_classes, shapes["inputs"].shape, step, shapes["inputs"].dtype)
    hyperparams = make_hyperparams(config)
    state = jax.eval_shape(partial(init_state, setup), hyperparams)
    hardware.require_bytes(hardware.num_bytes(state), "the network with its optimiser", "make config.model narrower")
    if 1 in (setup.batch_size, setup.last_batch_size) and jax.tree.leaves(state.batch_stats):
        raise SettingError(
            f"config.train.batch_size must leave no batch of one example, which has no variance for batch norm, "
            f"got {setup.batch_size} of {setup.num_examples} examples; change it or config.data.train_size"
        )
    if loop is None:
        order = jax.ShapeDtypeStruct((setup.num_examples,), jnp.int32)
        one_step, platform = partial(step_of_epoch, setup, setup.batch_size), hardware.platform(train)
        loop = choose_loop(one_step, state, hyperparams, shapes, order, 0, platform=platform)
    compiled = partial(train_steps_compiled, setup)
    return Trainer(
        setup.model,
        num_classes,
        models.num_params(state.params),
        setup.steps_per_epoch,
        setup.num_steps,
        loop,
        # Run once, it is worth little optimising: a ResNet-18's takes half as long to compile, to the same bits.
        init=jax.jit(partial(init_state, setup), compiler_options={"xla_backend_optimization_level": 1}),
        train_steps=jax.jit(compiled) if loop == "scan" else python_loop(setup),
        train_steps_together=jax.jit(jax.vmap(compiled, in_axes=(0, 0, None, None, None))),
        eval_params=partial(eval_params, setup, jax.jit(partial(update_batch_stats, setup.model, setup.batch_size))),
    )


def steps_of_run(config: TrainingConfig, steps_per_epoch: int) -> int:
    """The optimiser steps of a run that goes to its end.

    Raises:
        InputError: more than are counted in 32 bits.
    """
    num_steps = config.train.steps or config.train.epochs * steps_per_epoch
    if num_steps > 2**31 - 1:
        name = "steps" if config.train.steps else "epochs"
        raise InputError(f"config.train.{name} makes {num_steps} steps, at most {2**31 - 1} are counted; lower it")
    return num_steps


def make_setup(
    config: TrainingConfig, num_classes: int, shape: tuple[int, ...], step: Step, dtype: Any = jnp.float32
) -> Setup:
    """What the trainer of a configuration compiles in, for training inputs of `shape` `[N, ...]`, integers of tokens.

    Raises:
        InputError: settings that are inconsistent with each other or with the data.
    """
    num_examples = shape[0]
    batch_size = _batch_size(config, num_examples)
    steps_per_epoch = -(-num_examples // batch_size)
    num_steps = steps_of_run(config, steps_per_epoch)
    num_epochs = -(-num_steps // steps_per_epoch)
    average_from = config.train.average_from * steps_per_epoch
    if average_from >= num_steps:
        raise InputError(
            f"config.train.average_from must be below {num_epochs}, the epochs of the run, so that there is something "
            f"to average, got {config.train.average_from}"
        )
    if config.train.augment > 0 and len(shape) != 4:
        raise InputError(
            f"config.train.augment is for images [n, h, w, c]; this data set has inputs of shape {tuple(shape[1:])}; "
            "set it to 0"
        )
    if jnp.issubdtype(dtype, jnp.integer):
        for name, value in (("mixup", config.train.mixup), ("ghost_batch_size", config.train.ghost_batch_size)):
            if value:
                raise InputError(f"config.train.{name} must be 0 for tokens, got {value:g}")
    regularisers = {"sam_radius": config.optim.sam_radius, "mixup": config.train.mixup, "augment": config.train.augment}
    last_batch_size = num_examples - (steps_per_epoch - 1) * batch_size
    ghost_batch_size = _ghost_batch_size(config, batch_size, last_batch_size)
    model = models.build(config.model.name, num_classes, **dict(config.model.settings))
    return Setup(
        model=model,
        num_classes=num_classes,
        input_shape=tuple(shape[1:]),
        input_dtype=jnp.dtype(dtype),
        num_examples=num_examples,
        batch_size=batch_size,
        last_batch_size=last_batch_size,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        gradient=make_gradient(model, LOSSES[config.train.loss].function, config.train.precision, ghost_batch_size),
        optimiser=make_optimiser(config, num_epochs, steps_per_epoch),
        step=step,
        average_from=average_from,
        compiled_out=tuple(name for name, value in regularisers.items() if not value > 0),
        mesh=hardware.make_mesh(config.devices),
        fsdp=config.fsdp,
    )


def make_optimiser(
    config: TrainingConfig, num_epochs: int, steps_per_epoch: int
) -> Callable[[Hyperparams], optax.GradientTransformation]:
    """A function that gives the optimiser at traced hyper-parameters, with a schedule of finished epochs."""
    build = partial(OPTIMISERS[config.optim.name], **dict(config.optim.settings))
    mask = WEIGHT_DECAY_MASKS[config.optim.weight_decay_mask]
    schedule = SCHEDULES[config.schedule.name](num_epochs, config.train.average_from, **dict(config.schedule.settings))

    def optimiser(hyperparams: Hyperparams) -> optax.GradientTransformation:
        return build(lambda step: hyperparams.learning_rate * schedule(step // steps_per_epoch), hyperparams.l2, mask)

    return optimiser


def init_state(setup: Setup, hyperparams: Hyperparams) -> TrainState:
    """The state before the first step."""
    example = jnp.zeros((1, *setup.input_shape), setup.input_dtype)
    params, batch_stats = setup.model.init(jax.random.key(hyperparams.seed), example)
    average = params if setup.average_from else {}
    return TrainState(jnp.int32(0), params, batch_stats, setup.optimiser(hyperparams).init(params), average)


def epoch_order(num_examples: int, hyperparams: Hyperparams, epoch: jax.Array | int) -> jax.Array:
    """A random permutation of the examples [N], the same for every run with that seed and epoch."""
    # `jax.random.permutation` sorts twice, so that not even equal draws, of which there is about one in 60,000
    # examples, stay in order; on a CPU that takes as long as twenty steps of softmax regression.
    key = jax.random.fold_in(jax.random.key(hyperparams.seed), epoch + 1)
    return jnp.argsort(jax.random.bits(key, (num_examples,))).astype(jnp.int32)


def make_batch(setup: Setup, hyperparams: Hyperparams, step: jax.Array, train: Split, indices: jax.Array) -> Batch:
    """The augmented inputs and the targets of step number `step`, for the examples `indices`."""
    # Epochs take the streams from 1 on.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(hyperparams.seed), 0), step)
    augment_key, mixup_key = jax.random.split(key)
    taken = hardware.shard_batch({name: array[indices] for name, array in train.items()}, setup.mesh)
    inputs = taken["inputs"]
    targets = make_targets(taken["labels"], setup.num_classes, hyperparams.label_smoothing)
    if hyperparams.augment is not None:
        inputs = augment(augment_key, inputs, hyperparams.augment)
    if hyperparams.mixup is not None:
        inputs, targets = mixup(mixup_key, inputs, targets, hyperparams.mixup)
    if setup.model.tokens is None:
        return Batch(inputs, targets, taken.get("weights"))
    return Batch(inputs, targets, taken.get("weights"), jax.random.fold_in(key, 2))


def step_of_epoch(
    setup: Setup,
    size: int,
    state: TrainState,
    hyperparams: Hyperparams,
    train: Split,
    order: jax.Array,
    position: jax.Array | int,
) -> TrainState:
    """The step at `position` of an epoch that takes the examples in `order`, on a batch of `size`."""
    left_out: dict[str, Any] = dict.fromkeys(setup.compiled_out)
    hyperparams = hyperparams._replace(**left_out)
    indices = jax.lax.dynamic_slice(order, (position * setup.batch_size,), (size,))
    state = setup.step(
        state,
        make_batch(setup, hyperparams, state.step, train, indices),
        hyperparams,
        gradient=setup.gradient,
        optimiser=setup.optimiser(hyperparams),
        average_from=setup.average_from,
    )
    return hardware.shard_state(state, setup.mesh, setup.fsdp)


def train_steps_compiled(
    setup: Setup, state: TrainState, hyperparams: Hyperparams, train: Split, start: int, stop: int
) -> TrainState:
    """The steps `start <= step < stop` in a loop of `jax.lax`."""
    full_step, last_step = (partial(step_of_epoch, setup, size) for size in (setup.batch_size, setup.last_batch_size))
    draw_order = partial(epoch_order, setup.num_examples, hyperparams)

    def body(index: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, order = carry
        epoch, position = index // setup.steps_per_epoch, index % setup.steps_per_epoch
        # `index` is shared by runs that train together, so these stay branches under vmap.
        order = jax.lax.cond(position == 0, lambda: draw_order(epoch), lambda: order)
        if setup.last_batch_size == setup.batch_size:
            return full_step(state, hyperparams, train, order, position), order
        is_last = position == setup.steps_per_epoch - 1
        state = jax.lax.cond(is_last, last_step, full_step, state, hyperparams, train, order, position)
        return state, order

    # Where an epoch begins, its first step draws the order, which costs as much as several steps of a small model.
    begins = start % setup.steps_per_epoch == 0
    undrawn = jnp.zeros(setup.num_examples, jnp.int32)
    first_order = jax.lax.cond(begins, lambda: undrawn, lambda: draw_order(start // setup.steps_per_epoch))
    return jax.lax.fori_loop(start, stop, body, (state, first_order))[0]


def python_loop(setup: Setup) -> TrainSteps:
    """`train_steps` with the loop in Python, each step compiled by itself."""
    draw_order = jax.jit(partial(epoch_order, setup.num_examples))
    full_step = last_step = jax.jit(partial(step_of_epoch, setup, setup.batch_size))
    if setup.last_batch_size != setup.batch_size:
        last_step = jax.jit(partial(step_of_epoch, setup, setup.last_batch_size))

    def train_steps(state: TrainState, hyperparams: Hyperparams, train: Split, start: int, stop: int) -> TrainState:
        order = None
        for index in range(start, stop):
            epoch, position = divmod(index, setup.steps_per_epoch)
            order = draw_order(hyperparams, epoch) if order is None or position == 0 else order
            step = last_step if position == setup.steps_per_epoch - 1 else full_step
            state = step(state, hyperparams, train, order, position)
        return state

    return train_steps


def train_runs(
    trainer: Trainer,
    states: Sequence[TrainState],
    hyperparams: Sequence[Hyperparams],
    train: Split,
    start: int,
    stop: int,
) -> list[TrainState]:
    """The steps `start <= step < stop` of each run: one as it is, several as one vectorised run."""
    if len(states) == 1:
        return [trainer.train_steps(states[0], hyperparams[0], train, start, stop)]
    stack: Callable[..., Any] = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    stacked = trainer.train_steps_together(stack(*states), stack(*hyperparams), train, start, stop)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(states))]


def eval_params(
    setup: Setup, update_batch_stats: Callable[..., Any], state: TrainState, train: Split
) -> tuple[Any, Any]:
    """The parameters and batch-norm statistics of an evaluation: the averaged ones, once there are any."""
    if not setup.average_from or state.step <= setup.average_from:
        return state.params, state.batch_stats
    if not jax.tree.leaves(state.batch_stats):
        return state.average, state.batch_stats
    return state.average, update_batch_stats(state.average, state.batch_stats, train["inputs"])


def _batch_size(config: TrainingConfig, num_examples: int) -> int:
    batch_size = config.train.batch_size or num_examples
    if batch_size > num_examples:
        raise InputError(
            f"config.train.batch_size must be at most {num_examples}, the training split, got {batch_size}"
        )
    return batch_size


def _ghost_batch_size(config: TrainingConfig, *batch_sizes: int) -> int | None:
    """Examples that one forward pass takes; None is the whole batch."""
    size = config.train.ghost_batch_size
    for batch_size in batch_sizes:
        if size and batch_size % size:
            raise InputError(
                f"config.train.ghost_batch_size must divide every batch of the run, which have "
                f"{' and '.join(map(str, dict.fromkeys(batch_sizes)))} examples, got {size}; change it, "
                "config.train.batch_size or config.data.train_size"
            )
    return size or None
