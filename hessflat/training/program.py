"""A training run as a pure function of (hyper-parameters, data), compiled once for all runs that share shapes.

What differs between the runs of a sweep is in `Hyper`, as traced numbers; everything else is baked into the program.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from hessflat import models
from hessflat.config import chosen_settings
from hessflat.errors import InputError
from hessflat.fold import Loop, choose_loop
from hessflat.training.losses import cross_entropy
from hessflat.training.optimisers import OPTIMISERS
from hessflat.training.schedules import SCHEDULES

Split = Mapping[str, jax.Array]

# The settings that are traced: runs that differ in these alone share one compiled program.
TRACED = {"learning_rate": "optim.lr", "l2": "optim.l2", "label_smoothing": "train.label_smoothing", "seed": "seed"}


class Hyper(NamedTuple):
    """The numbers in which the runs of one program differ; scalars, or `[runs]` where runs train together."""

    learning_rate: jax.Array
    l2: jax.Array
    label_smoothing: jax.Array
    seed: jax.Array


class TrainState(struct.PyTreeNode):
    """What a step changes. Randomness needs no state: it is drawn from the key of (seed, step)."""

    step: jax.Array
    params: Any
    statistics: Any
    opt_state: Any


class Program(NamedTuple):
    """Pure functions of one training run.

    `init(hyper)` gives the state before the first step; `advance(state, hyper, train, start, stop)` takes the steps
    `start <= step < stop`; `advance_together` does so for stacked states and hyper-parameters.
    `steps_per_epoch` counts a last batch that is smaller than the others as a step.
    """

    model: models.Model
    num_classes: int
    num_params: int
    init: Callable[[Hyper], TrainState]
    advance: Callable[[TrainState, Hyper, Split, int, int], TrainState]
    advance_together: Callable[[TrainState, Hyper, Split, int, int], TrainState]
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


def hyper_of(config: ConfigDict) -> Hyper:
    """The traced settings of a configuration."""
    return Hyper(
        jnp.float32(config.optim.lr),
        jnp.float32(config.optim.l2),
        jnp.float32(config.train.label_smoothing),
        jnp.uint32(config.seed),
    )


def make_program(config: ConfigDict, num_classes: int, inputs: jax.Array) -> Program:
    """The program of every run whose configuration differs from `config` in `TRACED` settings only.

    Args:
        config: a validated configuration.
        num_classes: C.
        inputs: the training inputs `[N, ...]`, or their shape.
    """
    model = models.build(config.model.name, num_classes, **chosen_settings(config.model))
    num_examples = inputs.shape[0]
    batch_size = config.train.batch_size
    if batch_size > num_examples:
        raise InputError(
            f"config.train.batch_size must be at most {num_examples}, the training split, got {batch_size}"
        )
    steps_per_epoch = -(-num_examples // batch_size)
    num_steps = config.train.epochs * steps_per_epoch
    if num_steps > 2**31 - 1:
        raise InputError(f"config.train.epochs makes {num_steps} steps, at most {2**31 - 1} are counted; lower it")
    last_batch_size = num_examples - (steps_per_epoch - 1) * batch_size
    factor = SCHEDULES[config.schedule.name](config.train.epochs, **chosen_settings(config.schedule))

    def optimiser(hyper: Hyper) -> optax.GradientTransformation:
        def learning_rate(step: jax.Array) -> jax.Array:
            return hyper.learning_rate * factor(step // steps_per_epoch)

        return OPTIMISERS[config.optim.name](learning_rate, hyper.l2, **chosen_settings(config.optim))

    def init(hyper: Hyper) -> TrainState:
        example = jnp.zeros((1, *inputs.shape[1:]), jnp.float32)
        params, statistics = model.init(jax.random.key(hyper.seed), example)
        return TrainState(jnp.int32(0), params, statistics, optimiser(hyper).init(params))

    def order_of(hyper: Hyper, epoch: jax.Array | int) -> jax.Array:
        return jax.random.permutation(jax.random.fold_in(jax.random.key(hyper.seed), epoch + 1), num_examples)

    def update(state: TrainState, hyper: Hyper, train: Split, indices: jax.Array) -> TrainState:
        inputs, labels = train["inputs"][indices], train["labels"][indices]

        def objective(params: Any) -> tuple[jax.Array, Any]:
            logits, statistics = model.apply(params, state.statistics, inputs, True)
            return cross_entropy(logits, labels, hyper.label_smoothing), statistics

        gradient, statistics = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimiser(hyper).update(gradient, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), statistics, opt_state)

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

        first_order = order_of(hyper, start // steps_per_epoch)
        return jax.lax.fori_loop(start, stop, body, (state, first_order))[0]

    jitted_full, jitted_last, jitted_order = jax.jit(full_step), jax.jit(last_step), jax.jit(order_of)

    def advance_from_host(state: TrainState, hyper: Hyper, train: Split, start: int, stop: int) -> TrainState:
        order = jitted_order(hyper, start // steps_per_epoch)
        for index in range(start, stop):
            epoch, position = divmod(index, steps_per_epoch)
            order = jitted_order(hyper, epoch) if position == 0 else order
            step = jitted_last if position == steps_per_epoch - 1 else jitted_full
            state = step(state, hyper, train, order, position)
        return state

    state = jax.eval_shape(init, hyper_of(config))
    loop = _choose(full_step, state, hyper_of(config), num_examples, inputs)
    advance = jax.jit(advance_compiled) if loop == "scan" else advance_from_host
    together = jax.jit(jax.vmap(advance_compiled, in_axes=(0, 0, None, None, None)))
    return Program(
        model,
        num_classes,
        models.num_params(state.params),
        jax.jit(init),
        advance,
        together,
        steps_per_epoch,
        num_steps,
        loop,
    )


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _choose(step: Callable, state: TrainState, hyper: Hyper, num_examples: int, inputs: jax.Array) -> Loop:
    train = {
        "inputs": jax.ShapeDtypeStruct(inputs.shape, jnp.float32),
        "labels": jax.ShapeDtypeStruct((num_examples,), jnp.int32),
    }
    order = jax.ShapeDtypeStruct((num_examples,), jnp.int32)
    return choose_loop(step, state, hyper, train, order, 0)
