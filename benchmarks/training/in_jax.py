"""hessflat's trainer, and the loop that one would write without it."""

import contextlib
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from benchmarks.timing import seconds_per_call
from benchmarks.training.problem import Problem
from benchmarks.training.workloads import (
    BATCH_SIZES,
    LEARNING_RATE,
    MOMENTUM,
    NUM_CHECKED,
    NUM_CLASSES,
    RUNS,
    Network,
)
from hessflat import models
from hessflat.config import override
from hessflat.runs import checkpoints
from hessflat.runs.schema import base_config, freeze, replace
from hessflat.training.optimisation import cross_entropy, make_targets
from hessflat.training.step import PRECISIONS, Batch, make_gradient
from hessflat.training.trainer import make_hyperparams, make_trainer


class JaxSetting:
    """The data on the device, and what contenders are compared by."""

    def __init__(self, network: Network, scale: str, problem: Problem, overrides: Mapping[str, Any]) -> None:
        self.network, self.scale, self.problem, self.overrides = network, scale, problem, overrides
        self.train = jax.device_put({"inputs": problem.x, "labels": problem.y})
        self.checked = jax.tree.map(lambda x: x[: NUM_CHECKED[scale]], self.train)
        self.step = 0

    @cached_property
    def model(self) -> models.Model:
        return models.build(self.network.model, NUM_CLASSES, **self.network.settings_at(self.scale))

    def weights(self) -> tuple[Any, Any]:
        """Parameters and statistics of the problem, on the device."""
        trees = (self.problem.params, self.problem.statistics)
        params, statistics = (jax.tree.map(jnp.asarray, unflatten_dict(tree, sep="/")) for tree in trees)
        return params, statistics

    def check_of(self, before: tuple[Any, Any], after: tuple[Any, Any], gradient_norm: Any) -> dict[str, float]:
        @jax.jit
        def loss(params: Any, statistics: Any) -> jax.Array:
            logits, _ = self.model.apply(params, statistics, self.checked["inputs"], True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, self.checked["labels"]).mean()

        with jax.default_matmul_precision("highest"):
            losses = {"loss": float(loss(*before)), "loss_after_a_step": float(loss(*after))}
        number = models.num_params(after[0])
        return losses | {"gradient_norm": float(gradient_norm), "parameters": float(number)}

    def parts(self) -> dict[str, float]:
        return {}

    def device_kind(self) -> str:
        return jax.devices()[0].device_kind


class Hessflat(JaxSetting):
    """`train_steps` of the trainer that a configuration makes."""

    def __init__(self, network: Network, scale: str, problem: Problem, overrides: Mapping[str, Any]) -> None:
        super().__init__(network, scale, problem, overrides)
        model = network.model
        settings = {f"model.{model}.{name}": value for name, value in network.settings_at(scale).items()}
        settings |= {"model.name": model, "optim.lr": LEARNING_RATE, "optim.sgd.momentum": MOMENTUM}
        settings |= {"schedule.name": "constant", "train.batch_size": BATCH_SIZES[scale]}
        # A CPU has only this precision, and on a GPU it is the one that peers are compared in.
        self.config = freeze(override(base_config("small"), settings | {"train.precision": "float32", **overrides}))

    @property
    def loop(self) -> str:
        return self.trainer.loop

    def build(self) -> None:
        self.hyperparams = make_hyperparams(self.config)
        self.trainer = make_trainer(self.config, NUM_CLASSES, self.train)
        self.state = self.trainer.init(self.hyperparams)

    def advance(self, steps: int) -> None:
        stop = self.step + steps
        state = self.trainer.train_steps(self.state, self.hyperparams, self.train, self.step, stop)
        self.state, self.step = jax.block_until_ready(state), stop

    def check(self) -> dict[str, float]:
        """The gradient is what momentum holds after a first step."""
        config = replace(self.config, {"train.batch_size": len(self.checked["labels"])})
        trainer, hyperparams = make_trainer(config, NUM_CLASSES, self.checked), make_hyperparams(config)
        params, statistics = self.weights()
        state = trainer.init(hyperparams).replace(params=params, batch_stats=statistics)
        state = trainer.train_steps(state, hyperparams, self.checked, 0, 1)
        norm = optax.global_norm(optax.tree_utils.tree_get(state.opt_state, "trace"))
        return self.check_of((params, statistics), (state.params, state.batch_stats), norm)


class Resumed(Hessflat):
    """A checkpoint of a whole state opened, read, checked and put on the device, in place of a step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        super().build()
        self.folder = tempfile.TemporaryDirectory()
        with self.manager() as manager:
            checkpoints.save(manager, 0, checkpoints.new_position(self.config, self.state))

    def build(self) -> None:
        """Nothing: the first time is that of a process that goes on with a run."""

    def manager(self) -> AbstractContextManager:
        return contextlib.closing(checkpoints.open_folder(Path(self.folder.name)))

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            with self.manager() as manager:
                jax.block_until_ready(checkpoints.stored_position(self.config, self.trainer, manager, 0))

    def parts(self) -> dict[str, float]:
        return {"bytes": float(sum(path.stat().st_size for path in Path(self.folder.name).rglob("*")))}


class InPrecision(Hessflat):
    """With what the device does in that precision: operations of a gradient as XLA counts them, and of products."""

    def parts(self) -> dict[str, float]:
        name = self.config.train.precision
        size = 256 if self.device_kind() == "cpu" else 8192
        a = jnp.ones((size, size), jnp.bfloat16 if name == "bfloat16" else jnp.float32)
        with jax.default_matmul_precision(PRECISIONS[name]):
            product = jax.jit(jnp.matmul)
            product(a, a).block_until_ready()
            seconds = seconds_per_call(lambda: product(a, a).block_until_ready(), at_least=0.2)
        inputs, labels = (self.train[key][: BATCH_SIZES[self.scale]] for key in ("inputs", "labels"))
        gradient = jax.jit(make_gradient(self.model, cross_entropy, "float32"))
        batch = Batch(inputs, make_targets(labels, NUM_CLASSES))
        analysis = gradient.lower(*self.weights(), batch).cost_analysis() or {}
        return {"operations": float(analysis.get("flops", np.nan)), "matrix_rate": 2.0 * size**3 / seconds}


class RunsTogether(Hessflat):
    """A sweep over learning rates and seeds as one vectorised run."""

    def build(self) -> None:
        super().build()
        number = RUNS[self.scale]
        entries = [{"seed": i, "optim.lr": LEARNING_RATE * (1 + i) / number} for i in range(number)]
        self.runs = [make_hyperparams(replace(self.config, entry)) for entry in entries]
        self.states = [self.trainer.init(hyperparams) for hyperparams in self.runs]
        self.stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(self.states, self.runs, strict=True))

    def advance(self, steps: int) -> None:
        (states, hyperparams), stop = self.stacked, self.step + steps
        states = self.trainer.train_steps_together(states, hyperparams, self.train, self.step, stop)
        self.stacked, self.step = (jax.block_until_ready(states), hyperparams), stop


class RunsInTurn(RunsTogether):
    """The same runs, one after another."""

    def advance(self, steps: int) -> None:
        stop = self.step + steps
        for i, (state, hyperparams) in enumerate(zip(self.states, self.runs, strict=True)):
            self.states[i] = self.trainer.train_steps(state, hyperparams, self.train, self.step, stop)
        jax.block_until_ready(self.states)
        self.step = stop


class ByHand(JaxSetting):
    """One jitted step that overwrites its state, called from a loop over a NumPy permutation."""

    loop = "python"

    def build(self) -> None:
        jax.config.update("jax_default_matmul_precision", "highest")
        self.order = np.random.default_rng(0)
        self.optimiser = optax.sgd(LEARNING_RATE, MOMENTUM)
        self.batch_size = BATCH_SIZES[self.scale]
        apply = self.model.apply

        @partial(jax.jit, donate_argnums=(0, 1, 2))
        def take_step(params, statistics, opt_state, inputs, labels, indices):
            def loss(params):
                logits, changed = apply(params, statistics, inputs[indices], True)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels[indices]).mean(), changed

            (value, changed), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = self.optimiser.update(gradient, opt_state)
            return optax.apply_updates(params, updates), changed, opt_state, value

        self.take_step = take_step
        params, statistics = jax.jit(self.model.init)(jax.random.key(0), self.train["inputs"][:1])
        self.state = (params, statistics, self.optimiser.init(params))

    def advance(self, steps: int) -> None:
        size, epoch = self.batch_size, len(self.train["labels"]) // self.batch_size
        for _ in range(steps):
            position = self.step % epoch
            if position == 0:
                self.permutation = self.order.permutation(len(self.train["labels"]))
            indices = self.permutation[position * size : (position + 1) * size]
            *state, _ = self.take_step(*self.state, self.train["inputs"], self.train["labels"], indices)
            self.state = tuple(state)
            self.step += 1
        jax.block_until_ready(self.state)

    def check(self) -> dict[str, float]:
        params, statistics = self.weights()
        state = (params, statistics, self.optimiser.init(params))
        indices = np.arange(len(self.checked["labels"]))
        *after, opt_state, _ = self.take_step(*state, self.checked["inputs"], self.checked["labels"], indices)
        norm = optax.global_norm(optax.tree_utils.tree_get(opt_state, "trace"))
        return self.check_of(self.weights(), (after[0], after[1]), norm)
