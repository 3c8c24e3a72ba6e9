"""What measuring a configuration takes, before anything is trained: `python -m hessflat plan --config=g_wrn:paper`."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import hessflat.curvature as cv
from hessflat import models
from hessflat.cli import app
from hessflat.curvature.diagnostics import targets
from hessflat.measures.eval_state import OPERATORS, model_functions, operators_by_key
from hessflat.runs import schema
from hessflat.runs.cost_model import data_shape
from hessflat.runs.schema import RunConfig
from hessflat.training.optimisation import make_targets
from hessflat.utils import hardware, progress


def main(argv: Sequence[str]) -> None:
    """`--topology=h100:8` or `v5e:4x4` plans for accelerators that need not be there; without it, for this machine.

    The plan is of the spectra: every matrix of `measure.operators` in every mode of batch norm, with
    `measure.lanczos_steps` and `measure.probes`. Neither weights nor data are made, and published data sets need not be
    there.
    """
    own, settings = app.parse_flags(argv, {"config": None, "topology": ""})
    topology = own["topology"] or None
    if topology is not None:
        targets.parse(topology)
        # A compiler for GPUs looks for one where JAX starts, unless it is told that there is none.
        jax.config.update("jax_platforms", "cpu")
    config = schema.freeze(app.from_command_line(own["config"], settings))
    planned = operators(config, topology)
    with progress.reporting(len(planned)) as reporter:
        for title, op in planned.items():
            protocol: Any = config.measure
            reporter.advance(0.0, title)
            with jax.default_matmul_precision(protocol.precision):
                print(f"{title}\n{cv.plan(op, protocol.lanczos_steps, protocol.probes, topology=topology)}\n")
            reporter.advance(1.0, title)


def operators(config: RunConfig, topology: str | None = None) -> dict[str, cv.Operator]:
    """The matrices whose spectra a run measures, of shapes, by a title.

    It takes as many of the measured examples as divide over the chips of the topology. With `config.fsdp` parameters
    are spread over these too.
    """
    data, protocol = data_shape(config), config.measure
    model = models.build(config.model.name, data.num_classes, **dict(config.model.settings))
    number = min(protocol.examples or data.num_examples, data.num_examples)
    chips = 1 if topology is None else math.prod(targets.parse(topology)[2])
    number -= number % chips
    example, _ = data.arrays(1)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), example)
    inputs, labels = data.arrays(number)
    arrays = {"inputs": inputs, "targets": jax.eval_shape(partial(make_targets, num_classes=data.num_classes), labels)}
    if data.tokens:
        arrays["weights"] = jax.ShapeDtypeStruct(labels.shape, jnp.float32)
    if config.fsdp and chips > 1:
        mesh = AbstractMesh((chips,), (hardware.AXIS,))
        params = jax.tree.map(lambda leaf, at: leaf.update(sharding=at), params, hardware.shardings(params, mesh, True))
        place = NamedSharding(mesh, PartitionSpec(hardware.AXIS))
        arrays = {name: leaf.update(sharding=place) for name, leaf in arrays.items()}
    state = batch_stats if jax.tree.leaves(batch_stats) else None
    size = protocol.batch_size or None
    found = {}
    for name, mode in operators_by_key(protocol.operators, protocol, batch_stats).values():
        batches = cv.Batches(arrays, size, weights="weights" if data.tokens else None)
        if mode == "train":
            shared = min(protocol.batch_stats_size or number, number)
            batches = cv.Batches(arrays, None if size is None else max(shared, size - size % shared), shared)
        functions = model_functions(model, config.train.loss, mode)
        title = OPERATORS[name].title + (f", batch norm in {mode} mode" if state is not None else "")
        found[title] = OPERATORS[name].build(functions, params, batches, state)
    return found
