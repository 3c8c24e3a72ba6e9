"""A training run as a pure function of (hyper-parameters, data), compiled once for all runs that share shapes.

What differs between the runs of a sweep is in `Hyper`, as traced numbers; everything else is baked into the program.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from hessflat import models
from hessflat.training import averaging, sam, sharding
from hessflat.training.augmentation import augment, mixup
from hessflat.training.config import TrainingConfig
from hessflat.training.gradients import gradient_of
from hessflat.training.losses import LOSSES, targets_of
from hessflat.training.optimisers import DECAYED, OPTIMISERS
from hessflat.training.schedules import SCHEDULES
from hessflat.utils.errors import InputError
from hessflat.utils.loops import Loop, choose_loop

Split = Mapping[str, jax.Array]

AnyConfig = TypeVar("AnyConfig", bound=TrainingConfig)


class Hyper(NamedTuple):
    """The numbers in which the runs of one program differ; scalars, or `[runs]` where runs train together."""

    learning_rate: jax.Array
    l2: jax.Array
    sam_radius: jax.Array
    label_smoothing: jax.Array
    mixup: jax.Array
    augment: jax.Array
    seed: jax.Array


class TrainState(struct.PyTreeNode):
    """What a step changes. Randomness needs no state: it is drawn from the key of (seed, step)."""

    step: jax.Array
    params: Any
    statistics: Any  # running averages of batch normalisation; an empty dict without it
    opt_state: Any
    average: Any  # mean of the iterates from `train.average_from` on; an empty dict where none is kept


class Program(NamedTuple):
    """Pure functions of one training run.

    `init(hyper)` gives the state before the first step; `advance(state, hyper, train, start, stop)` takes the steps
    `start <= step < stop`; `advance_together` does so for stacked states and hyper-parameters.
    `evaluated(state, train)` gives the parameters and statistics that the run is judged by at a state.
    `steps_per_epoch` counts a last batch that is smaller than the others as a step.
    """

    model: models.Model
    num_classes: int
    num_params: int
    init: Callable[[Hyper], TrainState]
    advance: Callable[[TrainState, Hyper, Split, int, int], TrainState]
    advance_together: Callable[[TrainState, Hyper, Split, int, int], TrainState]
    evaluated: Callable[[TrainState, Split], tuple[Any, Any]]
    steps_per_epoch: int
    num_steps: int
    loop: Loop

    def advance_all(
        self, states: Sequence[TrainState], hypers: Sequence[Hyper], train: Split, start: int, stop: int
    ) -> list[TrainState]:
        """One run as it is, several as one vectorised run."""
        if len(states) == 1:
            return [self.advance(states[0], hypers[0], train, start, stop)]
        stacked = self.advance_together(_stack(states), _stack(hypers), train, start, stop)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(states))]


def hyper_of(config: TrainingConfig) -> Hyper:
    """The traced settings of a configuration: runs that differ in these alone share one compiled program."""
    optim, train = config.optim, config.train
    return Hyper(
        jnp.float32(optim.lr),
        jnp.float32(optim.l2),
        jnp.float32(optim.sam_radius),
        jnp.float32(train.label_smoothing),
        jnp.float32(train.mixup),
        jnp.float32(train.augment),
        jnp.uint32(config.seed),
    )


def shared_by(config: AnyConfig) -> AnyConfig:
    """One configuration for all that have the same program: traced settings at 0, the learning rate at 1.

    SAM, mixup and augmentation cost time, so a program with one of them is another one: there it is at 1.
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


def make_program(config: TrainingConfig, num_classes: int, train: Split) -> Program:
    """The program of every run whose configuration is the same by `shared_by`.

    Args:
        config: a validated configuration.
        num_classes: C, the number of outputs.
        train: the training inputs `[N, ...]` and labels, or their shapes.
    """
    model = models.build(config.model.name, num_classes, **dict(config.model.settings))
    shape = train["inputs"].shape
    num_examples = shape[0]
    batch_size = _batch_size(config, num_examples)
    steps_per_epoch = -(-num_examples // batch_size)
    num_steps = config.train.steps or config.train.epochs * steps_per_epoch
    if num_steps > 2**31 - 1:
        raise InputError(f"config.train.epochs makes {num_steps} steps, at most {2**31 - 1} are counted; lower it")
    last_batch_size = num_examples - (steps_per_epoch - 1) * batch_size
    num_epochs = -(-num_steps // steps_per_epoch)
    average_from = config.train.average_from * steps_per_epoch
    if average_from >= num_steps:
        raise InputError(
            f"config.train.average_from must be below {num_epochs}, the epochs of the run, so that there is something "
            f"to average, got {config.train.average_from}"
        )
    factor = SCHEDULES[config.schedule.name](num_epochs, config.train.average_from, **dict(config.schedule.settings))
    switched = {
        "sam_radius": config.optim.sam_radius > 0,
        "mixup": config.train.mixup > 0,
        "augment": config.train.augment > 0,
    }
    if switched["augment"] and len(shape) != 4:
        raise InputError(
            f"config.train.augment is for images [n, h, w, c]; this data set has inputs of shape {tuple(shape[1:])}; "
            "set it to 0"
        )
    mesh = sharding.mesh_of(config.devices)
    ghost_batch_size = _ghost_batch_size(config, batch_size, last_batch_size)
    gradient = gradient_of(model, config.train.precision, ghost_batch_size, LOSSES[config.train.loss])

    def optimiser(hyper: Hyper) -> optax.GradientTransformation:
        def learning_rate(step: jax.Array) -> jax.Array:
            return hyper.learning_rate * factor(step // steps_per_epoch)

        make, decayed = OPTIMISERS[config.optim.name], DECAYED[config.optim.decayed]
        return make(learning_rate, hyper.l2, decayed, **dict(config.optim.settings))

    def init(hyper: Hyper) -> TrainState:
        example = jnp.zeros((1, *shape[1:]), jnp.float32)
        params, statistics = model.init(jax.random.key(hyper.seed), example)
        average = params if average_from else {}
        return TrainState(jnp.int32(0), params, statistics, optimiser(hyper).init(params), average)

    def order_of(hyper: Hyper, epoch: jax.Array | int) -> jax.Array:
        # `jax.random.permutation` sorts twice, so that not even equal draws, of which there is about one in 60,000
        # examples, stay in order; on a CPU that takes as long as twenty steps of softmax regression.
        key = jax.random.fold_in(jax.random.key(hyper.seed), epoch + 1)
        return jnp.argsort(jax.random.bits(key, (num_examples,)))

    def batch_of(state: TrainState, hyper: Hyper, train: Split, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the step sees of its examples."""
        # Epochs take the streams from 1 on.
        augment_key, mixup_key = jax.random.split(
            jax.random.fold_in(jax.random.fold_in(jax.random.key(hyper.seed), 0), state.step)
        )
        inputs, labels = sharding.spread((train["inputs"][indices], train["labels"][indices]), mesh)
        targets = targets_of(labels, num_classes, hyper.label_smoothing)
        if switched["augment"]:
            inputs = augment(augment_key, inputs, hyper.augment)
        if switched["mixup"]:
            inputs, targets = mixup(mixup_key, inputs, targets, hyper.mixup)
        return inputs, targets

    def update(state: TrainState, hyper: Hyper, train: Split, indices: jax.Array) -> TrainState:
        batch = batch_of(state, hyper, train, indices)
        direction, statistics = gradient(state.params, state.statistics, *batch)
        if switched["sam_radius"]:
            uphill = sam.ascended(state.params, direction, hyper.sam_radius)
            direction, _ = gradient(uphill, state.statistics, *batch)
        updates, opt_state = optimiser(hyper).update(direction, state.opt_state, state.params)
        params, step, average = optax.apply_updates(state.params, updates), state.step + 1, state.average
        if average_from:
            average = averaging.include(average, params, step - average_from)
        return TrainState(step, params, statistics, opt_state, average)

    def evaluated(state: TrainState, train: Split) -> tuple[Any, Any]:
        if not average_from or state.step <= average_from:
            return state.params, state.statistics
        if not jax.tree.leaves(state.statistics):
            return state.average, state.statistics
        return state.average, reestimate(state, train)

    def step_of_size(size: int) -> Callable[..., TrainState]:
        def step(state: TrainState, hyper: Hyper, train: Split, order: jax.Array, position: jax.Array) -> TrainState:
            indices = jax.lax.dynamic_slice(order, (position * batch_size,), (size,))
            return update(state, hyper, train, indices)

        return step

    full_step, last_step = step_of_size(batch_size), step_of_size(last_batch_size)

    def advance_compiled(state: TrainState, hyper: Hyper, train: Split, start: int, stop: int) -> TrainState:
        def body(index: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
            state, order = carry
            epoch, position = index // steps_per_epoch, index % steps_per_epoch
            # `index` is shared by runs that train together, so these stay branches under vmap.
            order = jax.lax.cond(position == 0, lambda: order_of(hyper, epoch), lambda: order)
            if last_batch_size == batch_size:
                return full_step(state, hyper, train, order, position), order
            is_last = position == steps_per_epoch - 1
            state = jax.lax.cond(is_last, last_step, full_step, state, hyper, train, order, position)
            return state, order

        # Where an epoch begins, its first step draws the order, which costs as much as several steps of a small model.
        begins = start % steps_per_epoch == 0
        undrawn = jnp.zeros(num_examples, jnp.int32)
        first_order = jax.lax.cond(begins, lambda: undrawn, lambda: order_of(hyper, start // steps_per_epoch))
        return jax.lax.fori_loop(start, stop, body, (state, first_order))[0]

    jitted_full, jitted_order = jax.jit(full_step), jax.jit(order_of)
    jitted_last = jitted_full if last_batch_size == batch_size else jax.jit(last_step)

    def advance_from_host(state: TrainState, hyper: Hyper, train: Split, start: int, stop: int) -> TrainState:
        order = None
        for index in range(start, stop):
            epoch, position = divmod(index, steps_per_epoch)
            order = jitted_order(hyper, epoch) if order is None or position == 0 else order
            step = jitted_last if position == steps_per_epoch - 1 else jitted_full
            state = step(state, hyper, train, order, position)
        return state

    @jax.jit
    def reestimate(state: TrainState, train: Split) -> Any:
        return averaging.reestimated(model, state.average, state.statistics, train["inputs"], batch_size)

    state = jax.eval_shape(init, hyper_of(config))
    loop = _choose(full_step, state, hyper_of(config), train)
    advance = jax.jit(advance_compiled) if loop == "scan" else advance_from_host
    together = jax.jit(jax.vmap(advance_compiled, in_axes=(0, 0, None, None, None)))
    return Program(
        model,
        num_classes,
        models.num_params(state.params),
        # Run once, it is worth little optimising: a ResNet-18's takes half as long to compile, to the same bits.
        jax.jit(init, compiler_options={"xla_backend_optimization_level": 1}),
        advance,
        together,
        evaluated,
        steps_per_epoch,
        num_steps,
        loop,
    )


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


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _choose(step: Callable, state: TrainState, hyper: Hyper, train: Split) -> Loop:
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in train.items()}
    order = jax.ShapeDtypeStruct(train["inputs"].shape[:1], jnp.int32)
    return choose_loop(step, state, hyper, shapes, order, 0)
