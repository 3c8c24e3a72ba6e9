"""The memory, exchanges and time of a measurement on accelerators that are not there, by compiling for them.

What is compiled is the library's own block of Lanczos steps, for the shapes of an operator, so memory and exchanges are
those that the compiler has settled. Time is a model (`time_model`).
"""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from hessflat.curvature import numerics, vectors
from hessflat.curvature.diagnostics import programs, time_model
from hessflat.curvature.diagnostics.programs import Collective
from hessflat.curvature.diagnostics.targets import Chip, Target, target
from hessflat.curvature.krylov import basis, recurrence
from hessflat.curvature.krylov.basis import Storage
from hessflat.curvature.krylov.lanczos import block_length
from hessflat.curvature.krylov.recurrence import Reorthogonalise
from hessflat.curvature.operators import operator
from hessflat.curvature.operators.linearize import linearized_shapes
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Batches, Term, as_batches
from hessflat.curvature.records import record
from hessflat.utils import hardware
from hessflat.utils.errors import InputError, in_one_line

# The axis over which examples are spread where no shape says how.
_AXIS = "examples"


@record("what measuring takes", {})
class TopologyPlan(NamedTuple):
    """Bytes and seconds of Lanczos runs with k probes of m steps, in turn; of each chip, where nothing else is said."""

    topology: str  # as it was given, such as "h100:64"
    chip: str  # the kind of accelerator
    num_chips: int  # over which data and vectors are spread
    size: int  # P
    num_examples: int  # of all chips
    batch_size: int  # examples of all chips in one product
    num_products: int  # k m
    precision: str  # of products of matrices
    argument_bytes: int  # parameters, data, residuals, vectors, and the basis
    basis_bytes: int  # of the stored Lanczos vectors
    residual_bytes: int  # of the linearisation; 0 where they are too large to store
    temporary_bytes: int  # during one step
    host_bytes: int  # of the basis in the host's memory, of all chips
    chip_bytes: int  # that a chip has
    collectives: tuple[Collective, ...]  # in one step
    flops: float  # in one step, of products of matrices and convolutions
    moved_bytes: float  # in one step, between memory and chip
    num_kernels: float  # in one step
    compute_seconds: float  # of one step, if the memory were infinitely fast
    memory_seconds: float  # of one step, if operations took no time
    network_seconds: float  # of one step
    latency_seconds: float  # of one step
    step_seconds: float  # of one step
    seconds: float  # of all steps; without compilation, and for a basis on the host without its re-orthogonalisation
    compile_seconds: float  # here, for the target
    fits: bool  # whether memory is enough
    advice: str  # what would fit, where this does not

    @property
    def memory_bytes(self) -> int:
        """All that one chip holds at a time."""
        return self.argument_bytes + self.temporary_bytes

    @property
    def collective_bytes(self) -> float:
        """Bytes in all exchanges of one step."""
        return sum(one.times * one.num_bytes for one in self.collectives)

    def __str__(self) -> str:
        text = hardware.text
        rows = {
            "chips": f"{self.num_chips} × {self.chip}",
            "parameters": f"{self.size:,}",
            "examples": f"{self.num_examples:,}, {self.batch_size:,} in one product",
            "products": f"{self.num_products:,}, in {self.precision}",
            "memory of a chip": f"{text(self.memory_bytes)} of {text(self.chip_bytes)}",
            "  basis": text(self.basis_bytes),
            "  linearisation": text(self.residual_bytes),
            "  other arguments": text(self.argument_bytes - self.basis_bytes - self.residual_bytes),
            "  during a step": text(self.temporary_bytes),
            "exchanges a step": in_words(self.collectives),
            "a step, by the model": f"{self.step_seconds:.3g} s",
            "  operations": f"{self.flops:.3g}, {self.compute_seconds:.3g} s",
            "  memory": f"{text(self.moved_bytes)}, {self.memory_seconds:.3g} s",
            "  network": f"{text(self.collective_bytes)}, {self.network_seconds:.3g} s",
            "  latency": f"{self.num_kernels:.0f} kernels, {self.latency_seconds:.3g} s",
            "altogether": f"{self.seconds:.3g} s",
            "fits": "yes" if self.fits else f"no: {self.advice}",
        }
        if self.host_bytes:
            rows["on the host"] = f"a basis of {text(self.host_bytes)}, whose time is not in the model"
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def plan_for_topology(
    op: Operator,
    num_steps: int,
    num_probes: int,
    storage: Storage,
    reorthogonalise: Reorthogonalise,
    topology: str,
) -> TopologyPlan:
    """`plan` for a topology, of arguments that are checked.

    Raises:
        InputError: a topology that cannot be compiled for, a stream, shardings that do not go with it, examples that
            do not divide, or a compiler that makes no program of more memory than a chip has, as that for TPUs.
    """
    goal = target(topology)
    placed = _placed(op, goal)
    batches = max((term.batches for term in placed.terms), key=lambda b: b.num_examples)
    advice = _advice(batches, storage, reorthogonalise, goal)
    stores = reorthogonalise != "none" and storage != "host"
    with numerics.matmul_precision():
        ready = _linearized(placed, goal.chip)
        state = _state(ready, num_steps, stores, storage)
        lowered = _lowered(ready, state, num_steps, storage, reorthogonalise, goal.chip.platform)
        began = time.perf_counter()
        compiled = _compiled(lowered, goal, advice)
        compile_seconds = time.perf_counter() - began
    blocks, steps = state.blocks, block_length(num_steps) if storage != "host" else 1
    # Of the blocks of a basis only those that hold vectors are read; over a whole run, on average about half.
    share = (len(blocks) + 1) / (2 * len(blocks)) if blocks else 1.0
    program = programs.read(compiled.as_text(), share)
    memory = compiled.memory_analysis()
    argument_bytes, temporary_bytes = int(memory.argument_size_in_bytes), int(memory.temp_size_in_bytes)
    temporary_bytes += max(int(memory.output_size_in_bytes) - int(memory.alias_size_in_bytes), 0)
    basis_bytes = sum(map(_bytes_on_a_chip, jax.tree.leaves(blocks)))
    before, after = (sum(map(_bytes_on_a_chip, jax.tree.leaves(tree))) for tree in (placed, ready))
    precision = numerics.precision_on(goal.chip.platform)
    model = time_model.seconds_of(program, goal.chip, precision, len(goal.devices))
    rows = num_steps if reorthogonalise != "none" else 0
    fits = argument_bytes + temporary_bytes < goal.chip.usable * goal.chip.memory_bytes
    return TopologyPlan(
        topology=topology,
        chip=goal.chip.title,
        num_chips=len(goal.devices),
        size=op.size,
        num_examples=batches.num_examples,
        batch_size=batches.size,
        num_products=num_steps * num_probes,
        precision=precision,
        argument_bytes=argument_bytes,
        basis_bytes=basis_bytes,
        residual_bytes=max(after - before, 0),
        temporary_bytes=temporary_bytes,
        host_bytes=basis.bytes_needed(operator.layout_of(placed), rows, storage) if storage == "host" else 0,
        chip_bytes=goal.chip.memory_bytes,
        collectives=tuple(one._replace(times=one.times / steps) for one in program.collectives),
        flops=program.flops / steps,
        moved_bytes=program.num_bytes / steps,
        num_kernels=program.num_kernels / steps,
        **{name: seconds / steps for name, seconds in model.items()},
        seconds=model["step_seconds"] / steps * num_steps * num_probes,
        compile_seconds=compile_seconds,
        fits=fits,
        advice="" if fits else advice,
    )


def _compiled(lowered: Any, goal: Target, advice: str) -> Any:
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"a step does not fit {goal.topology}: {in_one_line(error).rstrip('.')}; {advice}") from error


def _advice(batches: Batches, storage: str, reorthogonalise: str, goal: Target) -> str:
    choices = [
        f"batches of {max(batches.size // 2, 1):,} examples" if batches.size > len(goal.devices) else "",
        'storage="host"' if storage != "host" else "",
        'storage="half"' if storage == "device" else "",
        'reorthogonalise="none"' if reorthogonalise != "none" else "",
        "more chips with parameters spread over them",
    ]
    return "take " + " or ".join(filter(None, choices))


def in_words(collectives: tuple[Collective, ...]) -> str:
    """Each kind with how often it runs, and its bytes."""
    lines = []
    for kind in dict.fromkeys(one.kind for one in collectives):
        own = [one for one in collectives if one.kind == kind]
        times, largest = sum(one.times for one in own), max(one.num_bytes for one in own)
        total = sum(one.times * one.num_bytes for one in own)
        size = f"of {hardware.text(largest)}"
        if total < times * largest * 0.999:
            size = f"of {hardware.text(largest)} at most, {hardware.text(total)} in all"
        lines.append(f"{times:.3g} × {kind} {size}")
    return "; ".join(lines) or "none"


def _placed(op: Operator, goal: Target) -> Operator:
    """The operator with a shape on the devices of the target in place of each array.

    Where shapes or arrays have shardings over as many devices as the target has, these are kept. Otherwise examples are
    spread over all chips, and all else is on each.
    """
    if not op.in_memory:
        raise InputError("a stream is read from Python, by one process: plan with cv.Batches of the shapes of a batch")
    given = {
        leaf.sharding.mesh.shape_tuple: leaf.sharding.mesh
        for leaf in jax.tree.leaves(op)
        if _is_spread(leaf) and leaf.sharding.mesh.size > 1
    }
    number = len(goal.devices)
    if len(given) > 1 or any(mesh.size != number for mesh in given.values()):
        found = " and ".join(" × ".join(f"{name} {size}" for name, size in shape) for shape in given)
        raise InputError(
            f"shardings must be over one mesh of the {number} chips of {goal.topology}, got {found}; give such a mesh, "
            "or shapes without shardings"
        )
    shape = next(iter(given), ((_AXIS, number),))
    names, sides = zip(*shape, strict=True)
    mesh = Mesh(np.array(goal.devices).reshape(sides), names, axis_types=(AxisType.Auto,) * len(names))

    def put(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        if given and _is_spread(leaf):
            spec = leaf.sharding.spec
        return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf), sharding=NamedSharding(mesh, spec))

    def place(term: Term) -> Term:
        if not isinstance(term, Term):
            raise InputError("plan for a topology before the operator is linearised, not after")
        batches, whole = term.batches, PartitionSpec()
        rows = whole if given or number == 1 else PartitionSpec(_AXIS)
        if rows != whole and batches.num_examples == 1:  # such as stand for none, in a known map
            rows = whole
        if rows != whole and batches.num_examples % number:
            least = batches.num_examples // number * number
            raise InputError(
                f"{batches.num_examples:,} examples do not divide over {number} chips; give {least:,} or "
                f"{least + number:,}, or shapes with shardings"
            )
        arrays = jax.tree.map(lambda leaf: put(leaf, rows), batches.arrays)
        placed: Term = jax.tree.map(lambda leaf: put(leaf, whole), term)
        spread = as_batches(Batches(arrays, batches.batch_size, batches.statistics_batch))
        partitioned = term.is_partitioned or spread.shares_statistics
        return dataclasses.replace(placed, batches=spread, is_partitioned=partitioned)

    return Operator(tuple(map(place, op.terms)), op.coefficients, op.shift)


def _is_spread(leaf: Any) -> bool:
    """Whether a leaf says how it lies on a mesh."""
    sharding = getattr(leaf, "sharding", None)
    return isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh | AbstractMesh)


def _linearized(op: Operator, chip: Chip) -> Operator:
    """What `cv.lanczos` would make of the operator there, as shapes on the same devices."""
    ready = linearized_shapes(op, chip.memory_bytes // 4, "scan")
    devices = next((term.batches.devices for term in op.terms if term.batches.devices is not None), None)
    if ready is op or devices is None:
        return _on_one_mesh(ready, op)
    whole, example = PartitionSpec(), PartitionSpec(devices.axes)

    def place(leaf: Any, spec: PartitionSpec) -> Any:
        return leaf if _is_spread(leaf) else leaf.update(sharding=NamedSharding(devices.mesh, spec))

    terms = tuple(jax.tree.map(place, term, term.partition(whole, example)) for term in ready.terms)
    return dataclasses.replace(ready, terms=terms)


def _on_one_mesh(op: Operator, like: Operator) -> Operator:
    """The operator with every shape that has no place, replicated, on the mesh of the others."""
    mesh = next(leaf.sharding.mesh for leaf in jax.tree.leaves(like) if _is_spread(leaf))
    whole = NamedSharding(mesh, PartitionSpec())
    put = lambda leaf: leaf.update(sharding=whole) if numerics.any_shapes(leaf) and not _is_spread(leaf) else leaf  # noqa: E731
    result: Operator = jax.tree.map(put, op)
    return result


def shapes_of(op: Operator) -> Operator:
    """The operator with shapes in place of its arrays, where these lie."""

    def shape(leaf: Any) -> Any:
        where = getattr(leaf, "sharding", None)
        return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf), sharding=where)

    result: Operator = jax.tree.map(shape, op)
    return result


def lowered_block(op: Operator, num_steps: int, platform: str, reorthogonalise: Reorthogonalise = "full") -> Any:
    """A block of steps of `lanczos` for an operator of shapes, lowered for a platform."""
    with numerics.matmul_precision():
        state = _state(op, num_steps, reorthogonalise != "none", "device")
        return _lowered(op, state, num_steps, "device", reorthogonalise, platform)


def _state(op: Operator, num_steps: int, stores: bool, storage: Storage) -> recurrence.State:
    """The recurrence before its first step, as shapes where it lies."""
    layout = operator.layout_of(op)
    start = lambda: recurrence.initial_state(layout, vectors.zeros(layout), num_steps, stores, storage)  # noqa: E731
    state: recurrence.State = jax.eval_shape(start)
    if layout.mesh is None:
        return state
    put = lambda leaf, spec: leaf.update(sharding=NamedSharding(layout.mesh, spec))  # noqa: E731
    result: recurrence.State = jax.tree.map(put, state, recurrence.state_specs(layout, state))
    return result


def _lowered(
    op: Operator,
    state: recurrence.State,
    num_steps: int,
    storage: Storage,
    reorthogonalise: Reorthogonalise,
    platform: str,
) -> Any:
    """One block of steps, or what a step does on the device where the basis is on the host."""
    layout = operator.layout_of(op)
    if storage == "host" and reorthogonalise != "none":
        return recurrence.residual_compiled.trace(op, layout, state).lower(lowering_platforms=(platform,))
    where = None if layout.mesh is None else NamedSharding(layout.mesh, PartitionSpec())
    number = jax.ShapeDtypeStruct((), np.int32, sharding=where)
    traced = recurrence.scan_steps.trace(op, layout, state, number, block_length(num_steps), reorthogonalise)
    return traced.lower(lowering_platforms=(platform,))


def _bytes_on_a_chip(leaf: Any) -> int:
    if not hasattr(leaf, "dtype"):
        return 0
    shape = leaf.sharding.shard_shape(leaf.shape) if _is_spread(leaf) else leaf.shape
    count: int = math.prod(shape) * leaf.dtype.itemsize
    return count
