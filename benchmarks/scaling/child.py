"""One process of a layout: it answers one line of JSON with one line of JSON.

    python -m benchmarks.scaling.child LAYOUT RANK:PORT SCALE -

Commands: "hello" (what its programs hold, as XLA compiled them, and a first run of each), "TASK KIND" (seconds of one).
Every process of a layout is given the same commands; the first one's seconds count.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.child import reply_stream
from benchmarks.scaling.workloads import CLASSES, LAYOUTS, SIZES, STRONG, TASKS, WEAK, scaled
from benchmarks.timing import seconds_of
from hessflat.curvature.diagnostics import programs
from hessflat.curvature.krylov.lanczos import block_length


class Child:
    """Problems of both kinds on the mesh of all devices."""

    def __init__(self, name: str, place: str, scale: str) -> None:
        layout, (rank, port) = LAYOUTS[name], place.split(":")
        jax.config.update("jax_num_cpu_devices", layout.each)
        if layout.processes > 1:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            jax.distributed.initialize(f"127.0.0.1:{port}", layout.processes, int(rank))
        self.size, self.devices = SIZES[scale], layout.devices
        self.mesh = None
        if self.devices > 1:
            self.mesh = jax.make_mesh((self.devices,), ("examples",), (AxisType.Auto,))
        self.tasks = {f"{task} {kind}": self._task(task, kind) for kind in (STRONG, WEAK) for task in TASKS}

    def hello(self) -> dict[str, Any]:
        facts = {}
        for name, (run, compiled) in self.tasks.items():
            run()
            program = programs.read(compiled().as_text())
            steps = block_length(self.size.lanczos_steps) if name.startswith("lanczos") else 1
            exchanges = [[one.kind, one.times / steps, one.num_bytes] for one in program.collectives]
            facts[name] = {"flops": _flops(compiled()), "exchanges": exchanges}
        return {"facts": facts, "devices": self.devices}

    def run(self, name: str) -> dict[str, float]:
        return {"seconds": seconds_of(self.tasks[name][0])}

    def _task(self, task: str, kind: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """What runs the task, and what gives its compiled program."""
        if task == "training":
            return self._training(kind)
        import hessflat.curvature as cv

        op = cv.hessian(_loss, self._params(), self._batch(scaled(self.size.examples, kind, self.devices)))
        if task == "lanczos":
            from hessflat.curvature.diagnostics.topology_plan import lowered_block, shapes_of

            steps = self.size.lanczos_steps
            run = partial(cv.lanczos, op, jax.random.key(0), steps, show_progress=False)
            return run, lambda: lowered_block(shapes_of(cv.linearize(op)), steps, "cpu").compile()
        ready, vector = cv.linearize(op), self._put(np.ones(op.size, np.float32), spread=False)
        compiled = jax.jit(lambda op, v: op(v)).lower(ready, vector).compile
        return lambda: jax.block_until_ready(ready(vector)), compiled

    def _training(self, kind: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Steps of the library's own trainer, on its own mesh."""
        from hessflat.runs import schema
        from hessflat.training.trainer import make_hyperparams, make_trainer

        batch = max(scaled(self.size.batch, kind, self.devices), 1)
        config = schema.replace(
            schema.freeze(schema.base_config("small")),
            {
                "model.name": "mlp",
                "model.mlp.hidden": (self.size.hidden,),
                "train.batch_size": batch,
                "train.steps": 1_000_000,
                "devices": self.devices,
            },
        )
        x, y = _examples(self.size.examples, self.size.inputs)
        arrays = {"inputs": self._put(x, spread=False), "labels": self._put(y, spread=False)}
        trainer, hyperparams = make_trainer(config, CLASSES, arrays), make_hyperparams(config)
        start, stop = 1, 1 + _TRAINING_STEPS
        state = jax.tree.map(partial(self._put, spread=False), jax.tree.map(np.asarray, trainer.init(hyperparams)))
        train = partial(trainer.train_steps, state, hyperparams, arrays, start, stop)
        return lambda: jax.block_until_ready(train()), lambda: _compiled(trainer, state, hyperparams, arrays)

    def _params(self) -> dict[str, Array]:
        rng, size = np.random.default_rng(0), self.size
        first = rng.normal(size=(size.inputs, size.hidden)) / size.inputs**0.5
        last = rng.normal(size=(size.hidden, CLASSES)) / size.hidden**0.5
        arrays = {"first": first.astype(np.float32), "last": last.astype(np.float32)}
        return {name: self._put(array, spread=False) for name, array in arrays.items()}

    def _batch(self, count: int) -> dict[str, Array]:
        x, y = _examples(count, self.size.inputs)
        return {"x": self._put(x), "y": self._put(np.eye(CLASSES, dtype=np.float32)[y])}

    def _put(self, array: np.ndarray, spread: bool = True) -> Array:
        """An array on all devices of all processes, by its first axis or whole."""
        if self.mesh is None:
            return jax.device_put(array)
        place = NamedSharding(self.mesh, PartitionSpec("examples") if spread else PartitionSpec())
        return jax.make_array_from_callback(array.shape, place, lambda index: array[index])


_TRAINING_STEPS = 5


def _examples(count: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, inputs)).astype(np.float32), rng.integers(CLASSES, size=count).astype(np.int32)


def _loss(params: Any, batch: Any) -> Array:
    logits = jax.numpy.tanh(batch["x"] @ params["first"]) @ params["last"]
    return -jax.numpy.mean(jax.numpy.sum(jax.nn.log_softmax(logits) * batch["y"], axis=1))


def _compiled(trainer: Any, *arguments: Any) -> Any:
    """The program of the training steps, of one run of its loop."""
    return trainer.train_steps.lower(*arguments, 1, 2).compile()


def _flops(compiled: Any) -> float:
    return float((compiled.cost_analysis() or {}).get("flops", float("nan")))


def main(arguments: list[str]) -> None:
    replies = reply_stream()
    name, place, scale, _ = arguments
    child = None
    for line in sys.stdin:
        command = line.strip()
        try:
            if child is None:
                child = Child(name, place, scale)
            reply = child.hello() if command == "hello" else child.run(command)
        except Exception as error:  # is a result, and the others go on
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
