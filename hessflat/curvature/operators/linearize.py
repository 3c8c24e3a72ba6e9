"""Linearisation by partial evaluation: the part of a product that does not depend on the vector is computed once.

`linearize` takes an operator and returns the same operator (equal products up to rounding) with the forward and
backward pass of every batch already computed. Every measurement calls it before its first product. Call it by hand only
to share this work between measurements, or to switch it off.

A product is traced to a list of equations. An equation is known (it depends on parameters alone), known per batch, or
unknown (it depends on the vector). The first two kinds are evaluated once. Their results that unknown equations need,
the residuals (activations, masks), stay in memory, and every product evaluates the unknown equations only. This is
`jax.linearize` for any product that is linear in its vector, batch by batch, with less memory: common subexpressions of
terms are computed once, and results that only move or repeat numbers are recomputed. Equations are evaluated as traced.
An equation with an inner program (a loop, a branch, a checkpoint) is known or unknown as a whole.

The plain engine interprets nothing: every product differentiates anew, by `jax.jvp`, `jax.vjp` and `jax.linearize`.

The module is long because both engines stand behind one door.
"""

import dataclasses
import functools
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from hessflat.curvature import numerics
from hessflat.curvature.operators.terms import (
    Batches,
    Term,
    batches_of_one_device,
    loop_for,
    shapes_of_product,
    traced_product,
)
from hessflat.utils import compat, hardware, processes
from hessflat.utils.convolution import Engine, Loop, engine_in_use, equations_of, run_equations, values_of
from hessflat.utils.errors import InputError

# `operator.Operator`, which imports this module.
Operator = TypeVar("Operator", bound=Any)

# Primitives whose results are recomputed instead of stored: they only move or repeat numbers. `platform_index` must be
# in the program of its branch.
_RECOMPUTED = {
    *("broadcast_in_dim", "iota", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type"),
    *("copy", "rev", "pad", "slice", "concatenate", "platform_index"),
}


# Primitives that take as long as their numbers say.
_BY_NUMBERS = {"while", "cond", "ragged_dot", "ragged_dot_general"}


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """The equations of one product by what they depend on; static, made once for each set of functions and shapes."""

    params: tuple[Any, ...]  # variables of parameters, fixed parameters and state
    batch: tuple[Any, ...]
    vector: tuple[Any, ...]
    captured: dict[Any, Any]  # variables of arrays captured by the user's functions, and their values
    known: tuple[Any, ...]  # equations that depend on parameters alone
    known_per_batch: tuple[Any, ...]
    unknown: tuple[Any, ...]
    residuals: tuple[Any, ...]  # known variables that other equations need
    residuals_per_batch: tuple[Any, ...]
    results: tuple[Any, ...]
    structure: Any
    zeros: tuple[Any, ...] = ()  # variables that are zero


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "constants", "batches", "residuals", "residuals_per_batch", "remainders"],
    meta_fields=["stages", "remainder_stages"],
)
@dataclasses.dataclass(frozen=True)
class LinearizedTerm:
    """A `Term` with the known part of its product computed."""

    params: Any
    constants: list[Array]
    batches: Batches
    residuals: list[Array]
    residuals_per_batch: list[Array]  # [batches, ...] of several batches, [...] of one
    remainders: tuple[tuple[list[Array], list[Array]], ...]  # the residuals of each short batch, and those of its own
    stages: Stages
    remainder_stages: tuple[Stages, ...]
    is_partitioned: ClassVar[bool] = False  # such terms are not linearised

    def on_one_device(self) -> "LinearizedTerm":
        """The term over the examples that one device holds, inside `jax.shard_map`."""
        batches = self.batches.on_one_device()
        return dataclasses.replace(
            self,
            batches=batches,
            residuals_per_batch=_of_one_device(self.residuals_per_batch)
            if batches.count == 1
            else self.residuals_per_batch,
            remainders=tuple((once, _of_one_device(each)) for once, each in self.remainders),
        )

    def partition(self, whole: Any, example: Any) -> "LinearizedTerm":
        """The partition of each array over devices: arrays for each batch are spread, all others are replicated."""
        specs = jax.tree.map(lambda _: whole, self)
        spread: Any = lambda tree: jax.tree.map(lambda _: example, tree)  # noqa: E731
        result: LinearizedTerm = dataclasses.replace(
            specs,
            batches=dataclasses.replace(self.batches, arrays=spread(self.batches.arrays)),
            residuals_per_batch=spread(self.residuals_per_batch),
            remainders=tuple((jax.tree.map(lambda _: whole, once), spread(each)) for once, each in self.remainders),
        )
        return result


def linearize(op: Operator, limit: int | None = None, engine: Engine | None = None) -> Operator:
    """The same operator with everything that does not depend on the vector computed, for many products.

    The residuals take the memory of the activations of every batch. A term is returned unchanged where they would take
    more than `limit` bytes, inside a transformation, where batches are driven from Python, for shapes in place of
    arrays, and where XLA partitions the product because parameters are spread over devices: residuals would lie where
    XLA leaves them, perhaps whole on every device, and nothing would bound them.

    Args:
        op: a sum of curvature matrices; linearised terms are unchanged.
        limit: the maximum number of bytes of the residuals of all terms on one device; by default a quarter of its free
            memory.
        engine: "jaxpr" evaluates products by interpreting their jaxprs, for this operator and all operators made of it.
            "plain" leaves them to JAX and linearises nothing; it serves as a check. None is the operator's engine,
            initially the environment variable `HESSFLAT_LINEARIZE`, or else "jaxpr".

    Raises:
        InputError: an unknown engine, or another engine for a linearised term.
    """
    if not hasattr(op, "terms"):
        raise InputError(f"this takes an operator, such as cv.hessian(...), got {type(op).__name__}")
    op = op.as_it_is_now()
    if engine is not None:
        op = dataclasses.replace(op, terms=tuple(_with_engine(term, engine_in_use(engine)) for term in op.terms))
    if numerics.any_traced(op) or numerics.any_shapes(op) or loop_for(op) == "python":
        return op
    if limit is None:
        limit = processes.agreed(_default_limit(op), processes.spans(op))
    return _with_linearized_terms(op, limit)


def linearize_within(op: Operator) -> Operator:
    """`linearize` as a part of a compiled function, whose program then computes with each vector only what is left.

    The residuals may take a quarter of the memory that is free when the function is traced.
    """
    return _with_linearized_terms(op, processes.agreed(hardware.free_bytes() // 4, processes.spans(op)))


def linearized_shapes(op: Operator, limit: int | None = None, loop: Loop | None = None) -> Operator:
    """What `linearize(op)` gives, with shapes in the place of what it would compute, where time depends on no more.

    Operators whose time depends on numbers, and those that hold random keys, are linearised, if they hold arrays. The
    loop over batches is that of this machine where none is given.
    """
    if loop_for(op, loop) == "python":
        return op
    return _with_linearized_terms(op, _default_limit(op) if limit is None else limit, shapes_only=True)


def add_linearized(total: Any, coefficient: Any, term: LinearizedTerm, vector: Any) -> Any:
    """`total` + `coefficient` · product, batch by batch."""
    batches = term.batches
    number, size, count = batches.num_examples, batches.size, batches.count

    def add(total: Any, stages: Stages, residuals: Any, per_batch: Any, start: Any, size: int) -> Any:
        batch = jax.tree.leaves(batches.arrays if size == number else batches.take(start, size))
        values = dict(stages.captured)
        for variables, leaves in (
            (stages.params, term.constants),
            (stages.batch, batch),
            (stages.vector, jax.tree.leaves(vector)),
            (stages.residuals, residuals),
            (stages.residuals_per_batch, per_batch),
        ):
            values.update(zip(variables, leaves, strict=True))
        values.update({v: jnp.zeros(v.aval.shape, v.aval.dtype) for v in stages.zeros})
        run_equations(stages.unknown, values)
        results = jax.tree.unflatten(stages.structure, values_of(stages.results, values))
        weight = coefficient * (size / number)
        return jax.tree.map(lambda t, r: t + jnp.asarray(weight, r.dtype) * r, total, results)

    if count == 1:
        total = add(total, term.stages, term.residuals, term.residuals_per_batch, 0, size)
    else:
        total, _ = jax.lax.scan(
            lambda total, at: (add(total, term.stages, term.residuals, at[1], at[0], size), None),
            total,
            (size * jnp.arange(count), term.residuals_per_batch),
        )
    for (start, rest), stages, (residuals, per_batch) in zip(
        batches.rest, term.remainder_stages, term.remainders, strict=True
    ):
        total = add(total, stages, residuals, per_batch, start, rest)
    return total


add_linearized_compiled = jax.jit(add_linearized)


def _of_one_device(per_batch: list[Array]) -> list[Array]:
    """What one device holds of arrays [devices, ...], inside `jax.shard_map`."""
    return [jnp.squeeze(x, 0) for x in per_batch]


def _with_engine(term: Term | LinearizedTerm, engine: Engine) -> Term | LinearizedTerm:
    if isinstance(term, Term):
        return dataclasses.replace(term, engine=engine)
    if engine == "plain":
        raise InputError("choose the plain engine before an operator is linearised, not after")
    return term


def _with_linearized_terms(op: Operator, limit: int, shapes_only: bool = False) -> Operator:
    with numerics.matmul_precision():
        terms = []
        for term in op.terms:
            linearized = _linearize_term(term, limit, shapes_only)
            if isinstance(linearized, LinearizedTerm) and linearized is not term:
                computed = linearized.constants, linearized.residuals, linearized.residuals_per_batch
                limit -= _bytes_on_a_device(linearized.batches, (*computed, linearized.remainders))
            terms.append(linearized)
    return dataclasses.replace(op, terms=tuple(terms))


def _linearize_term(term: Term | LinearizedTerm, limit: int, shapes_only: bool = False) -> Term | LinearizedTerm:
    """`term` with its known part computed; unchanged where residuals would take more than `limit` bytes."""
    if isinstance(term, LinearizedTerm) or term.is_partitioned or engine_in_use(term.engine) == "plain":
        return term
    stages = _stages(*shapes_of_product(term))
    rest = batches_of_one_device(term).rest
    remainders = tuple(_stages(*shapes_of_product(term, size)) for _, size in rest)
    if any(compat.is_traced(value) for s in (stages, *remainders) for value in s.captured.values()):
        return term
    leaves, structure = jax.tree.flatten(term)
    shapes = _shapes_of_known(structure, numerics.shapes_and_types(leaves), stages, remainders)
    if _bytes_on_a_device(term.batches, shapes) > limit:
        return term
    if numerics.any_shapes(term) or (shapes_only and not any(map(_depends_on_numbers, (stages, *remainders)))):
        constants, (_, residuals, per_batch, of_rest) = _constants(term), shapes
    else:
        run = _known if numerics.any_traced(term) else _known_compiled(term)
        constants, residuals, per_batch, of_rest = run(term, stages, remainders)
    return LinearizedTerm(term.params, constants, term.batches, residuals, per_batch, of_rest, stages, remainders)


@functools.lru_cache(maxsize=256)
def _shapes_of_known(
    structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], stages: Stages, remainders: tuple[Stages, ...]
) -> Any:
    """The shapes of what `_known` gives for a term of these shapes; the program is not traced again for them."""
    term = jax.tree.unflatten(structure, shapes)
    return _known_compiled(term).eval_shape(term, stages, remainders)


def _bytes_on_a_device(batches: Batches, computed: Any) -> int:
    """Bytes of what `_known` gives that one device holds."""
    constants, residuals, per_batch, remainders = computed
    pieces = batches.devices.pieces if batches.devices is not None else 1
    whole = (constants, residuals, [once for once, _ in remainders])
    return hardware.num_bytes(whole) + hardware.num_bytes((per_batch, [each for _, each in remainders])) // pieces


def _default_limit(op: Any) -> int:
    """A quarter of the free memory of a device; the devices of a CPU share one."""
    mesh = hardware.mesh_of("params and data", op)
    sharing = 1 if mesh is None or hardware.platform(op) != "cpu" else int(mesh.size)
    return hardware.free_bytes() // 4 // sharing


def _depends_on_numbers(stages: Stages) -> bool:
    """Whether the time of what is evaluated with each vector depends on numbers, or these are random keys."""
    has_keys = any(
        jnp.issubdtype(v.aval.dtype, jax.dtypes.prng_key) for v in (*stages.residuals, *stages.residuals_per_batch)
    )
    return has_keys or any(e.primitive.name in _BY_NUMBERS for e in equations_of(stages.unknown))


def _constants(term: Term) -> list[Array]:
    return jax.tree.leaves((term.params, term.rest, term.state, term.spare, term.scalings))


def _known(term: Term, stages: Stages, remainders: tuple[Stages, ...]) -> Any:
    """The known part over every batch: constants, residuals, residuals per batch, and both for the remainders.

    Of a single batch they have no leading axis: with one, what is used within the program too would be computed twice.
    """
    if term.batches.devices:
        return _known_spread(term, stages, remainders)
    batches = term.batches
    constants = _constants(term)

    def known(stages: Stages) -> dict[Any, Any]:
        values = dict(stages.captured) | dict(zip(stages.params, constants, strict=True))
        run_equations(stages.known, values)
        return values

    def known_per_batch(stages: Stages, values: dict[Any, Any], start: Any, size: int) -> list[Any]:
        leaves = jax.tree.leaves(batches.take(start, size))
        values = values | dict(zip(stages.batch, leaves, strict=True))
        run_equations(stages.known_per_batch, values)
        return values_of(stages.residuals_per_batch, values)

    values = known(stages)
    starts = batches.size * jnp.arange(batches.count)
    if batches.count == 1:
        per_batch = known_per_batch(stages, values, 0, batches.size)
    else:
        per_batch = jax.lax.map(lambda start: known_per_batch(stages, values, start, batches.size), starts)
    rest = []
    for (start, size), own in zip(batches.rest, remainders, strict=True):
        own_values = known(own)
        rest.append((values_of(own.residuals, own_values), known_per_batch(own, own_values, start, size)))
    return constants, values_of(stages.residuals, values), per_batch, tuple(rest)


def _known_compiled(term: Term) -> Any:
    """`_known` as a program of its own, where that of a term runs."""
    return _known_on_cpu if hardware.platform(term) == "cpu" else _known_elsewhere


_known_elsewhere = jax.jit(_known, static_argnums=(1, 2))
# On a CPU machine code that is not optimised takes half the time to compile. It runs once, a third of a product longer.
_known_on_cpu = jax.jit(_known, static_argnums=(1, 2), compiler_options={"xla_backend_optimization_level": "0"})


def _known_spread(term: Term, stages: Stages, remainders: tuple[Stages, ...]) -> Any:
    """`_known` where every device has examples of its own."""
    devices = term.batches.devices
    assert devices is not None
    whole, example = PartitionSpec(), PartitionSpec(devices.axes)

    def own(term: Term) -> Any:
        """`_known` of one device, with a leading axis along which the results of all are put together."""
        term = term.on_one_device()
        constants, residuals, per_batch, rest = _known(term, stages, remainders)
        if term.batches.count == 1:
            per_batch = [x[None] for x in per_batch]
        return constants, residuals, per_batch, tuple((once, [x[None] for x in each]) for once, each in rest)

    spread: Any = jax.shard_map(
        own,
        mesh=devices.mesh,
        in_specs=(term.partition(whole, example),),
        out_specs=(whole, whole, example, tuple((whole, example) for _ in remainders)),
        check_vma=False,
    )
    return spread(term)


@functools.lru_cache(maxsize=256)
def _stages(*traced: Any) -> Stages:
    closed, (params, batch, vector), structure, _ = traced_product(*traced)
    level = dict.fromkeys(params, 0) | dict.fromkeys(batch, 1) | dict.fromkeys(vector, 2)
    captured = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    given = set(level) | set(captured)
    equations, results = _without_repeats(closed.jaxpr)
    by_level: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    source: dict[Any, Any] = {}
    for equation in equations:
        depends = max((level.get(v, 0) for v in _variables(equation.invars)), default=0)
        level |= dict.fromkeys(equation.outvars, depends)
        source |= dict.fromkeys(equation.outvars, equation)
        by_level[depends].append(equation)

    def dependencies(users: list[Any], results: Iterable[Any], above: int) -> tuple[list[Any], list[Any]]:
        """What `users` and `results` need from lower levels: equations to recompute, and variables to store."""
        again: dict[int, Any] = {}
        stored: dict[Any, None] = {}
        waiting = [v for equation in users for v in _variables(equation.invars)] + list(_variables(results))
        while waiting:
            variable = waiting.pop()
            if variable in given or level[variable] >= above:
                continue
            equation = source[variable]
            if equation.primitive.name in _RECOMPUTED:
                if id(equation) not in again:
                    again[id(equation)] = equation
                    waiting.extend(_variables(equation.invars))
            else:
                stored[variable] = None
        return [e for e in equations if id(e) in again], list(stored)

    again, below_unknown = dependencies(by_level[2], results, 2)
    again_per_batch, below_batch = dependencies(by_level[1], [], 1)
    return Stages(
        params,
        batch,
        vector,
        captured,
        known=tuple(by_level[0]),
        known_per_batch=_in_order(equations, [*again_per_batch, *by_level[1]]),
        unknown=_in_order(equations, [*again, *by_level[2]]),
        residuals=tuple(dict.fromkeys([v for v in below_unknown if level[v] == 0] + below_batch)),
        residuals_per_batch=tuple(v for v in below_unknown if level[v] == 1),
        results=tuple(results),
        structure=structure,
    )


def _without_repeats(jaxpr: Any) -> tuple[list[Any], list[Any]]:
    """Equations and results without common subexpressions: H, G and R share a network."""
    same: dict[Any, Any] = {}
    seen: dict[Any, Any] = {}
    equations = []
    for equation in jaxpr.eqns:
        inputs = [v if isinstance(v, compat.Literal) else same.get(v, v) for v in equation.invars]
        equation = equation.replace(invars=inputs)
        names = tuple((np.asarray(v.val).tobytes(), v.aval) if _is_number(v) else id(v) for v in inputs)
        try:
            key = (equation.primitive, compat.context_of(equation), tuple(sorted(equation.params.items())), names)
            first = equation if equation.effects else seen.setdefault(key, equation)
        except TypeError:  # parameters that cannot be compared: an equation of its own
            first = equation
        if first is equation:
            equations.append(equation)
        else:
            same.update(zip(equation.outvars, first.outvars, strict=True))
    return equations, [v if isinstance(v, compat.Literal) else same.get(v, v) for v in jaxpr.outvars]


def _is_number(atom: Any) -> bool:
    return isinstance(atom, compat.Literal) and np.ndim(atom.val) == 0


def _in_order(equations: list[Any], chosen: list[Any]) -> tuple[Any, ...]:
    numbers = {id(equation) for equation in chosen}
    return tuple(equation for equation in equations if id(equation) in numbers)


def _variables(atoms: Iterable[Any]) -> Iterable[Any]:
    return (atom for atom in atoms if not isinstance(atom, compat.Literal))
