"""The memory and time of a measurement before it starts, from XLA's memory analysis and one timed product.

For accelerators that are not there: `topology_plan`.
"""

import dataclasses
import time
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from hessflat.curvature import numerics, vectors
from hessflat.curvature.diagnostics.topology_plan import TopologyPlan, plan_for_topology
from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov.basis import Storage
from hessflat.curvature.krylov.recurrence import Reorthogonalise
from hessflat.curvature.numerics import require_count
from hessflat.curvature.operators import operator
from hessflat.curvature.operators.linearize import linearized_shapes
from hessflat.curvature.operators.operator import Operator, tree_matvec, tree_matvec_compiled
from hessflat.curvature.operators.terms import Batches, Term, loop_for
from hessflat.curvature.records import record
from hessflat.utils import hardware

# The share of free memory that a plan may use.
_SHARE = 0.8

# The number of rows with which re-orthogonalisation is timed.
_ROWS = 20


@record("what measuring takes", {})
class Plan(NamedTuple):
    """Bytes and seconds of Lanczos runs with k probes of m steps; `print` shows it as a table."""

    size: int  # P
    num_examples: int  # N
    batch_size: int  # examples in one product
    num_products: int  # k m
    basis_bytes: int  # of the stored Lanczos vectors
    residual_bytes: int  # residuals of the linearisation; 0 where they are too large to store
    product_bytes: int  # temporary, during one product
    free_bytes: int  # of the device, now
    largest_batch: int  # examples in one product that would fit
    compile_seconds: float  # of the programs
    product_seconds: float  # of one product
    orthogonalise_seconds: float  # over all steps and probes
    seconds: float  # in all
    fits: bool  # whether memory is enough
    advice: str  # what would fit, where this does not

    def __str__(self) -> str:
        rows = {
            "parameters": f"{self.size:,}",
            "examples": f"{self.num_examples:,}, {self.batch_size:,} in one product",
            "products": f"{self.num_products:,}",
            "basis": hardware.text(self.basis_bytes),
            "linearisation": hardware.text(self.residual_bytes),
            "during a product": hardware.text(self.product_bytes),
            "free memory": hardware.text(self.free_bytes),
            "largest batch": f"{self.largest_batch:,} examples would fit",
            "one product": f"{self.product_seconds:.3g} s",
            "re-orthogonalisation": f"{self.orthogonalise_seconds:.3g} s",
            "compilation": f"{self.compile_seconds:.3g} s",
            "altogether": f"{self.seconds:.3g} s",
            "fits": "yes" if self.fits else f"no: {self.advice}",
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def plan(
    op: Operator,
    num_steps: int = 100,
    num_probes: int = 1,
    storage: Storage = "device",
    reorthogonalise: Reorthogonalise = "full",
    topology: str | None = None,
) -> Plan | TopologyPlan:
    """The memory and time that `lanczos` or `spectrum` would take with these arguments.

    One product is compiled, and the product of its linearisation compiled and timed. To predict the memory of a product
    at other batch sizes, that of one smaller batch is compiled as well, on a CPU without optimising machine code, which
    takes no part in memory. Large arrays are allocated only where they fit.

    With a `topology` a block of Lanczos steps is compiled for accelerators that need not be there, and time is a model;
    see `TopologyPlan`.

    Args:
        op: an operator, of arrays or of shapes.
        num_steps: m.
        num_probes: k.
        storage: as in `lanczos`.
        reorthogonalise: as in `lanczos`.
        topology: `"h100:8"`, `"h200:64"`, `"v5e:8x8"`, say, one of `targets.CHIPS` with the number of GPUs or the grid
            of TPUs; None is this machine. Examples are spread over all chips, and all else is on each, unless
            shapes come with shardings over a mesh of as many devices.

    Raises:
        InputError: counts below 1, unknown options, a topology that cannot be compiled for.
    """
    operator.require_operator(op, shapes=True)
    op = op.as_it_is_now()
    numerics.require_option("storage", storage, get_args(Storage))
    numerics.require_option("reorthogonalise", reorthogonalise, get_args(Reorthogonalise))
    num_steps = min(require_count("num_steps", num_steps), op.size)
    num_probes = require_count("num_probes", num_probes)
    if topology is not None:
        return plan_for_topology(op, num_steps, num_probes, storage, reorthogonalise, topology)
    free = hardware.free_bytes()
    rows = num_steps if reorthogonalise != "none" else 3
    basis_bytes = basis.bytes_needed(operator.layout_of(op), rows, storage)
    began = time.perf_counter()
    product_bytes = _temporary_bytes(op)
    compile_seconds = time.perf_counter() - began
    in_host = storage == "host" and reorthogonalise != "none"
    beside = 0 if in_host else basis_bytes  # on the device, beside a product
    largest = _largest_batch(op, product_bytes, _SHARE * free - beside)
    fits = beside + product_bytes < _SHARE * free
    if in_host and basis_bytes >= (room := _SHARE * hardware.free_host_bytes()):
        fits, largest, free = False, 0, int(room / _SHARE)
    residuals, product_seconds, orthogonalise_seconds = 0, float("nan"), 0.0
    if product_bytes < _SHARE * free:
        ready = linearized_shapes(op)
        residuals = hardware.num_bytes(ready) - hardware.num_bytes(op) if ready is not op else 0
        product_seconds = _seconds_of_a_product(ready)
        if reorthogonalise != "none":
            orthogonalise_seconds = num_probes * num_steps * (num_steps + 1) / 2 * _seconds_for_a_row(op)
    products = num_steps * num_probes
    batches = max((term.batches for term in op.terms), key=lambda b: b.num_examples)
    return Plan(
        size=op.size,
        num_examples=batches.num_examples,
        batch_size=batches.size,
        num_products=products,
        basis_bytes=basis_bytes,
        residual_bytes=max(residuals, 0),
        product_bytes=product_bytes,
        free_bytes=free,
        largest_batch=largest,
        compile_seconds=compile_seconds,
        product_seconds=product_seconds,
        orthogonalise_seconds=orthogonalise_seconds,
        seconds=compile_seconds + products * product_seconds + orthogonalise_seconds,
        fits=fits,
        advice="" if fits else _advice(op, basis_bytes, product_bytes, largest, _SHARE * free, num_steps),
    )


def _advice(op: Operator, basis_bytes: int, product_bytes: int, largest: int, free: float, num_steps: int) -> str:
    if largest:
        return f"take batches of {largest} examples"
    if product_bytes >= free:
        return "not even a product with one example fits: take a larger device"
    vector = op.size * op.dtype.itemsize
    steps = int((free - product_bytes) / vector)
    choices = [f"{steps} steps" if steps > 1 else "", 'reorthogonalise="none"']
    if product_bytes + basis_bytes / 2 < free:
        choices.insert(0, 'storage="half"')
    if hardware.platform(op) != "cpu":
        choices.insert(0, 'storage="host"')
    return "take " + " or ".join(filter(None, choices))


def _temporary_bytes(op: Operator, optimised: bool = True) -> int:
    """What one product allocates beside its arguments, by XLA's analysis of the compiled program.

    That of a stream is the product of one batch, by its shapes.
    """
    terms = (dataclasses.replace(term, batches=term.batches.like) for term in op.terms)
    like = dataclasses.replace(op, terms=tuple(terms))
    quick = not optimised and hardware.platform(op) == "cpu"
    options: dict[str, str | bool] | None = {"xla_backend_optimization_level": "0"} if quick else None
    with numerics.matmul_precision():
        compiled = tree_matvec_compiled.lower(like, op.vector_like).compile(options)
    return int(getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)) + op.size * op.dtype.itemsize


def _largest_batch(op: Operator, product_bytes: int, room: float) -> int:
    """Examples in one product that fit into `room` bytes, by a line through the memory of this batch and another."""
    number, size = (max(getattr(term.batches, name) for term in op.terms) for name in ("num_examples", "size"))
    step = max((getattr(term.batches, "statistics_batch", None) or 1) for term in op.terms)
    # A smaller batch; of a single example, or of one batch of statistics, a larger one.
    other = size // 4 // step * step or 2 * step
    if not all(isinstance(term, Term) for term in op.terms) or other > number or other == size:
        return number if product_bytes < room else 0
    slope = max((product_bytes - _temporary_bytes(_with_batch(op, other), optimised=False)) / (size - other), 1.0)
    fitting = size + int((room - product_bytes) // slope)
    result: int = max(min(fitting // step * step, number), 0)
    return result


def _with_batch(op: Operator, size: int) -> Operator:
    def batches(term: Term) -> Batches:
        if term.batches.in_memory:
            return dataclasses.replace(term.batches, batch_size=size)
        shape = lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)  # noqa: E731
        return dataclasses.replace(term.batches.like, arrays=jax.tree.map(shape, term.batches.like.arrays))

    return dataclasses.replace(op, terms=tuple(dataclasses.replace(term, batches=batches(term)) for term in op.terms))


def _seconds_for_a_row(op: Operator) -> float:
    """What re-orthogonalisation against one stored vector takes."""
    layout = operator.layout_of(op)
    blocks, vector = basis.allocate(layout, _ROWS, "device"), vectors.draw(layout, jax.random.key(0), "rademacher")
    spec = vectors.specs(layout, vector)
    local = lambda blocks, v: basis.orthogonalise(layout, blocks, _ROWS, v)  # noqa: E731
    orthogonalise = jax.jit(vectors.over_devices(layout, local, (vectors.specs(layout, blocks), spec), spec))
    return _time(lambda v: orthogonalise(blocks, v), vector) / _ROWS


def _seconds_of_a_product(op: Operator) -> float:
    """What a product takes; arrays of which only shapes are known are zeros: time does not depend on them."""
    loop = loop_for(op)
    with numerics.matmul_precision():
        ready, vector = (jax.tree.map(_filled, tree) for tree in (op, op.vector_like))
        return _time(tree_matvec_compiled if loop == "scan" else partial(tree_matvec, loop=loop), ready, vector)


def _filled(leaf: Any) -> Any:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)


def _time(function: Any, *args: Any) -> float:
    jax.block_until_ready(function(*args))
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - began
